package schemas

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"
)

// Request is a job as a client asks for it. A Request that ParseRequest returned
// keeps every rule of the documentation; see rules.go.
type Request struct {
	Git          Git          `json:"git" wire:"required"`
	BuildOptions BuildOptions `json:"buildOptions" wire:"required"`
	// Nix is beside the document, and of both forms.
	Nix Nix `json:"nix,omitzero"`
	// Colors is likewise: whether what Nix and builders print has colours, as on a terminal.
	Colors bool `json:"colors,omitempty"`
	// Arch is the machine that the job is for, as Nix, Go or uname name it: the system
	// x86_64-linux, say, or amd64. Empty is any. Only the form Stack has it.
	Arch string `json:"-"`
}

// Git says where the source comes from.
type Git struct {
	// Repository is an https, http, ssh or git URL, or user@host:path.
	// ParseRequest moves a user name in an http(s) URL to GitUsername.
	Repository string `json:"repository,omitempty"`
	// Branch is what is built, as 'git fetch' takes it: a branch, a tag, a whole ref, or the full id
	// of a commit. Empty is the repository's default branch.
	Branch      string `json:"branch,omitempty"`
	GitUsername string `json:"gitUsername,omitempty"`
	// GitKey is a secret: a password or token, or a private key for ssh.
	GitKey       string `json:"gitKey,omitempty"`
	RequiresAuth bool   `json:"requiresAuth,omitempty"`
	// NoClone is true when the command names its source itself, as a flake
	// reference does. It then runs in an empty folder.
	NoClone bool `json:"noClone" wire:"required"`
}

// BuildOptions says what to run on the source.
type BuildOptions struct {
	// Cores and MaxJobs are Nix's settings cores and max-jobs; nil leaves Nix's
	// own default.
	Cores             *Integer `json:"cores,omitempty"`
	MaxJobs           *Integer `json:"maxJobs,omitempty"`
	KeepGoing         bool     `json:"keep_going,omitempty"`
	ExtraArgs         string   `json:"extraArgs,omitempty"`
	Substituters      []string `json:"substituters,omitempty"`
	TrustedPublicKeys []string `json:"trustedPublicKeys,omitempty"`
	Command           string   `json:"command" wire:"required"`
	Cachix            Cachix   `json:"cachix" wire:"required"`
}

// Cachix says where results go.
type Cachix struct {
	Push bool `json:"push" wire:"required"`
	// Target is the cache's URL; its last path segment is the cache's name.
	Target string `json:"target,omitempty"`
	// APIKey is a secret: the cache's bearer token.
	APIKey string `json:"apiKey,omitempty"`
	// SigningKey is a secret: base64 of an Ed25519 private key.
	SigningKey string `json:"signingKey,omitempty"`
}

// Nix holds the credentials by which Nix, and git when Nix runs it, get at what is not public on
// other hosts than the repository's.
type Nix struct {
	// AccessTokens are secrets: tokens by the host that takes them, as Nix's setting access-tokens
	// has them: "github.com", or "gitlab.example.com/group" for a part of one.
	AccessTokens map[string]string `json:"accessTokens,omitempty"`
	// Netrc is a secret: the text of a netrc file (see netrcPasswords).
	Netrc string `json:"netrc,omitempty"`
}

// Secrets returns the request's values that nobody but its job may see. They are what its
// properties for secrets hold, and what its command line holds in their place.
func (r *Request) Secrets() []string {
	cachix := r.BuildOptions.Cachix
	_, bareKey, _ := strings.Cut(cachix.SigningKey, ":") // of one with its name in front
	secrets := []string{r.Git.GitKey, cachix.APIKey, cachix.SigningKey, bareKey}
	for _, token := range r.Nix.AccessTokens {
		secrets = append(secrets, token, BareToken(token))
	}
	passwords, _ := netrcPasswords(r.Nix.Netrc)
	secrets = append(secrets, passwords...)
	for _, shown := range r.Shown() {
		secrets = append(secrets, shown.Secret)
	}
	return secrets
}

// BareToken returns a token of Nix's access-tokens without what says of which kind it is, as
// Nix's fetcher for GitLab wants it: "PAT:" or "OAuth2:".
func BareToken(token string) string {
	if kind, bare, ok := strings.Cut(token, ":"); ok && (kind == "PAT" || kind == "OAuth2") {
		return bare
	}
	return token
}

// Integer is a whole number. JSON has only numbers, so 2.0 and 2e0 are 2 as well.
type Integer int

var (
	errNotNumber = errors.New("must be a number")
	errNotWhole  = errors.New("must be a whole number from 0 to 2147483647")
)

// maxNumber is the length in bytes up to which a number is read, and maxExponent
// that of its exponent. A longer one is a whole number of this size in no sane
// spelling, and could take for ever to work out.
const (
	maxNumber   = 64
	maxExponent = 3
)

// UnmarshalJSON refuses what is not a number, and numbers that are not whole,
// negative, or larger than Nix's own settings hold (32 bits).
func (w *Integer) UnmarshalJSON(data []byte) error {
	text := string(data)
	if c := text[0]; c != '-' && (c < '0' || c > '9') {
		return errNotNumber
	}
	_, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	if len(text) > maxNumber || len(exponent) > maxExponent {
		return errNotWhole
	}
	// Exactly: as a float64, 4.00000000000000000001 would be whole.
	number, ok := new(big.Rat).SetString(text)
	if !ok || !number.IsInt() || !number.Num().IsInt64() {
		return errNotWhole
	}
	n := number.Num().Int64()
	if n < 0 || n > math.MaxInt32 {
		return errNotWhole
	}
	*w = Integer(n)
	return nil
}

// ParseRequest turns the bytes of one message into a Request and the Form that it has, in
// which it is to be answered. Or it says why not with a *Refusal, whose Response is safe to
// send: it names properties, never values. commands are the programs that a job may run.
func ParseRequest(data []byte, commands []string) (*Request, Format, error) {
	request, refusal := parse(data)
	if request != nil {
		request.normalize()
		checker{refusal}.check(request, commands)
	}
	if !refusal.isEmpty() {
		return nil, refusal.form, refusal
	}
	return request, refusal.form, nil
}

// ReadRequest returns the job in the bytes of a message as far as it can be understood,
// whatever rules it breaks. ok is false if it has not the shape of one.
func ReadRequest(data []byte) (request *Request, ok bool) {
	request, refusal := parse(data)
	return request, request != nil && refusal.isEmpty()
}

// parse returns the job in the bytes of a message, nil if there is none, and what is wrong
// with its shape.
func parse(data []byte) (*Request, *Refusal) {
	if refusal := checkDocument(data); refusal != nil {
		return nil, refusal
	}
	refusal := new(Refusal)
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil || top == nil {
		refusal.schemaError("", "the job must be a JSON object")
		return nil, refusal
	}
	if refusal.findForm(top); !refusal.isEmpty() {
		return nil, refusal
	}
	return decoder{refusal}.decodeJob(top), refusal
}
