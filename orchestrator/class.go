package orchestrator

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/schemas"
)

// This file says which jobs share a Nix store. A job's user cannot write into its store, but has
// a say in what the daemon puts there: what is signed by a key that the request trusts is taken
// for what a derivation yields. So jobs share a store only if they trust the same keys; and those
// that push, whose outputs others will trust, only if they push to the same cache with the same key;
// and those that have tokens for other hosts, whose store has what is fetched with them, only if they
// have the same.

// trust is what of a request decides with which jobs its job shares a store.
type trust struct {
	keys     []string // public keys that it trusts beside those of the image
	unsigned []string // substituters that may be asked to do without signatures
	pushes   []string // what only jobs with the same right to push know; nil: it does not push
	reads    []string // what only jobs know that may read as much from other hosts; nil: it has no such right
	branch   string   // whose flake may say what else it trusts
}

func trustOf(r *schemas.Request) trust {
	t := trust{keys: set(r.BuildOptions.TrustedPublicKeys), branch: r.Git.Branch}
	for _, substituter := range r.BuildOptions.Substituters {
		// Such as "?trusted=1": help-stores of Nix's manual.
		if u, err := url.Parse(substituter); err != nil || u.RawQuery != "" {
			t.unsigned = append(t.unsigned, substituter)
		}
	}
	t.unsigned = set(t.unsigned)
	if nix := r.Nix; len(nix.AccessTokens) > 0 || nix.Netrc != "" {
		t.reads = []string{"tokens", accessTokens(nix.AccessTokens), nix.Netrc}
	}
	switch cachix := r.BuildOptions.Cachix; {
	case !cachix.Push:
	case cachix.SigningKey != "":
		// A private cache is also taken from, by its own key: another is another trust.
		t.pushes = []string{"signing key", cachix.SigningKey, cachix.Target}
	default:
		t.pushes = []string{"API key", cachix.APIKey, cachix.Target}
	}
	return t
}

// set returns some texts sorted, each once.
func set(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}

// class is what jobs have in common that share a store.
type class struct {
	Repository string
	ImageID    string
	Platform   string
	User       string
	Keys       []string `json:",omitempty"`
	Unsigned   []string `json:",omitempty"`
	Operator   []string `json:",omitempty"` // what the operator has all jobs trust
	Branch     string   `json:",omitempty"` // where flakes count: stores of one are for jobs that trust as much
	Pushes     string   `json:",omitempty"` // an HMAC; empty: they do not push
	Reads      string   `json:",omitempty"` // likewise; empty: they have no tokens for other hosts
}

// id returns a name for a class.
func (c class) id() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic("orchestrator: a class always encodes: " + err.Error())
	}
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:10])
}

// storeFor returns the name of the store for a job, or "", and what to write down of it.
func (d *docker) storeFor(c container, image images.Image) (string, entry, error) {
	e := entry{Image: d.options.Image, ImageID: image.ID, Bytes: image.Size}
	shared := class{ImageID: image.ID, Platform: image.Platform, User: c.told.JobUser, Operator: d.options.Nix.Trust}
	switch {
	case d.options.Stores.Mode == StoreShared: // all its jobs trust each other
		return d.name("store-" + shared.id()), e, nil
	case d.options.Stores.Mode != StoreRepository || c.told.NoClone != "":
		return "", entry{}, nil
	}
	e.Repository, shared.Repository = c.told.Repository, c.told.Repository
	shared.Keys, shared.Unsigned = c.trust.keys, c.trust.unsigned
	if c.told.FlakeConfig != "" {
		shared.Branch = "branch " + c.trust.branch // also of the default branch
	}
	var err error
	if shared.Pushes, err = d.seal(c.trust.pushes); err != nil {
		return "", entry{}, err
	}
	if shared.Reads, err = d.seal(c.trust.reads); err != nil {
		return "", entry{}, err
	}
	return d.name("store-" + shared.id()), e, nil
}

// seal returns what stands for some texts, from which nobody without the secret of stores can tell
// whether they are the ones. It is empty of none.
func (d *docker) seal(texts []string) (string, error) {
	if texts == nil {
		return "", nil
	}
	secret, err := d.ledger.secret()
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(texts)
	if err != nil {
		panic("orchestrator: texts always encode: " + err.Error())
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(text)
	return hex.EncodeToString(mac.Sum(nil)), nil
}

const (
	// secretFile is the file in the folder of the ledger with the secret of its builders. When
	// it is lost, jobs that push begin with new stores.
	secretFile   = "secret"
	secretLength = 32 // bytes
)

// secret returns the secret by which stores of jobs that push are named, and makes it first.
func (l ledger) secret() ([]byte, error) {
	name := filepath.Join(l.folder, secretFile)
	secret, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := l.makeSecret(name); err != nil {
			return nil, fmt.Errorf("make the secret of stores: %w", err)
		}
		secret, err = os.ReadFile(name)
	}
	if err == nil && len(secret) != secretLength {
		err = fmt.Errorf("%s is damaged: remove it, and the stores of jobs that push begin anew", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the secret of stores: %w", err)
	}
	return secret, nil
}

// makeSecret makes it, unless another builder does so at the same time.
func (l ledger) makeSecret(name string) error {
	if err := os.MkdirAll(l.folder, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(l.folder, secretFile+".*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	secret := make([]byte, secretLength)
	rand.Read(secret)
	_, err = file.Write(secret)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), name); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// state returns what a container is told of the store that it has.
func (l *lease) state() string {
	switch {
	case l == nil:
		return ""
	case l.fresh:
		return jobenv.StoreFresh
	default:
		return jobenv.StoreUsed
	}
}
