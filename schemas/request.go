package schemas

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"
)

// Request is a job that a client requests. A Request that ParseRequest has returned follows every rule of the
// documentation; see rules.go.
type Request struct {
	Git          Git          `json:"git" wire:"required"`
	BuildOptions BuildOptions `json:"buildOptions" wire:"required"`
	// Nix is not in the Iglu Builder's documentation. Both formats have it.
	Nix Nix `json:"nix,omitzero"`
	// Colors is whether the output of Nix and builders has colours, as on a terminal. It is not in the
	// documentation either, and both formats have it.
	Colors bool `json:"colors,omitempty"`
	// Arch is the system that the job runs as, in the spelling of Nix, Go or uname, such as x86_64-linux or
	// amd64. Empty means that of the engine's machine. It is not in the documentation; in the format Stack it is
	// builder.arch.
	Arch string `json:"system,omitempty"`
}

// Git is the source of a job.
type Git struct {
	// Repository is an https, http, ssh or git URL, or user@host:path.
	// ParseRequest moves a user name in an http(s) URL to GitUsername.
	Repository string `json:"repository,omitempty"`
	// Branch is the revision to build, as an argument of 'git fetch': a branch, a tag, a whole ref, or the
	// full id of a commit. Empty means the repository's default branch.
	Branch      string `json:"branch,omitempty"`
	GitUsername string `json:"gitUsername,omitempty"`
	// GitKey is a secret: a password or token, or a private key for ssh.
	GitKey       string `json:"gitKey,omitempty"`
	RequiresAuth bool   `json:"requiresAuth,omitempty"`
	// NoClone is true if the command contains its source, such as a flake reference. The command then
	// runs in an empty folder.
	NoClone bool `json:"noClone" wire:"required"`
}

// BuildOptions are the command to run and its options.
type BuildOptions struct {
	// Cores and MaxJobs are Nix's settings cores and max-jobs; nil means Nix's default.
	Cores             *Integer `json:"cores,omitempty"`
	MaxJobs           *Integer `json:"maxJobs,omitempty"`
	KeepGoing         bool     `json:"keep_going,omitempty"`
	ExtraArgs         string   `json:"extraArgs,omitempty"`
	Substituters      []string `json:"substituters,omitempty"`
	TrustedPublicKeys []string `json:"trustedPublicKeys,omitempty"`
	Command           string   `json:"command" wire:"required"`
	Cachix            Cachix   `json:"cachix" wire:"required"`
}

// Cachix is the cache that the results are pushed to.
type Cachix struct {
	Push bool `json:"push" wire:"required"`
	// Target is the cache's URL; its last path segment is the cache's name.
	Target string `json:"target,omitempty"`
	// APIKey is a secret: the cache's bearer token.
	APIKey string `json:"apiKey,omitempty"`
	// SigningKey is a secret: base64 of an Ed25519 private key.
	SigningKey string `json:"signingKey,omitempty"`
}

// Nix has credentials for other hosts than the repository's. Nix uses them, and git if Nix runs it.
type Nix struct {
	// AccessTokens are secrets: tokens by host, as in Nix's setting access-tokens: "github.com", or
	// "gitlab.example.com/group" for a part of a host.
	AccessTokens map[string]string `json:"accessTokens,omitempty"`
	// Netrc is a secret: the text of a netrc file (see netrcPasswords).
	Netrc string `json:"netrc,omitempty"`
}

// Secrets returns the values that only the job may see: those of the properties for secrets, and secrets in
// the command line.
func (r *Request) Secrets() []string {
	cachix := r.BuildOptions.Cachix
	_, bareKey, _ := strings.Cut(cachix.SigningKey, ":") // of a key with its name before it
	secrets := []string{r.Git.GitKey, cachix.APIKey, cachix.SigningKey, bareKey}
	if isToken(r.Git.GitUsername) {
		secrets = append(secrets, r.Git.GitUsername)
	}
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

// BareToken returns a token of Nix's access-tokens without the prefix for its kind, "PAT:" or "OAuth2:", which
// Nix's fetcher for GitLab needs.
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

// maxNumber is the largest length of a number in bytes, and maxExponent that of its exponent. Longer ones are
// refused, because it could take very long to compute them.
const (
	maxNumber   = 64
	maxExponent = 3
)

// UnmarshalJSON returns an error if data is not a number, or if the number is not whole, is negative, or is
// larger than Nix's settings can be (32 bits).
func (w *Integer) UnmarshalJSON(data []byte) error {
	text := string(data)
	if c := text[0]; c != '-' && (c < '0' || c > '9') {
		return errNotNumber
	}
	_, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	if len(text) > maxNumber || len(exponent) > maxExponent {
		return errNotWhole
	}
	// Exact arithmetic: as a float64, 4.00000000000000000001 would be whole.
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

// ParseRequest reads a message. It returns the Request and its Format, in which the answers must be. Its error
// is a *Refusal, whose Response is safe to send: it contains names of properties, never values. commands are
// the programs that a job may run.
func ParseRequest(data []byte, commands []string) (*Request, Format, error) {
	request, refusal := parse(data)
	if request != nil {
		request.normalize()
		checker{refusal}.check(request, commands)
	}
	if !refusal.isEmpty() {
		return nil, refusal.format, refusal
	}
	return request, refusal.format, nil
}

// ReadRequest returns the job in a message without checking the rules. ok is false if the message does not
// match the schema; the request then has the properties that could be read, and may be nil.
func ReadRequest(data []byte) (request *Request, ok bool) {
	request, refusal := parse(data)
	return request, request != nil && refusal.isEmpty()
}

// parse returns the job in a message, nil if there is none, and a Refusal with everything that does not match
// the schema.
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
	if refusal.findFormat(top); !refusal.isEmpty() {
		return nil, refusal
	}
	return decoder{refusal}.decodeJob(top), refusal
}
