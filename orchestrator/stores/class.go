package stores

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"iglu.sh/builder/orchestrator/engine"
)

// This file says which jobs share a Nix store. A job's user cannot write into its store, but has
// a say in what the daemon puts there: what is signed by a key that the request trusts is taken
// for what a derivation yields. So jobs share a store only if they trust the same keys; and those
// that push, whose outputs others will trust, only if they push to the same cache with the same key;
// and those that have tokens for other hosts, whose store has what is fetched with them, only if they
// have the same.

// A Job is what of a job decides which store it has.
type Job struct {
	Image      engine.Image
	Repository string   // empty: none is cloned
	User       string   // who the job runs as
	Keys       []string // public keys that it trusts beside those of the image
	Unsigned   []string // substituters that may be asked to do without signatures
	Operator   []string // what the operator has all jobs trust
	// Flakes is true when what the job's flake says of whom it trusts counts; then Branch decides,
	// too.
	Flakes bool
	Branch string
	// Pushes is what only jobs with the same right to push know; nil: the job does not push. Reads is
	// what only jobs know that may read as much from other hosts; nil: it has no such right.
	Pushes []string
	Reads  []string
}

// A Key names the store that a job has.
type Key struct {
	Name       string // of its volume
	Repository string // empty: all jobs share it
	User       string // who its jobs run as
	Image      engine.Image
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
		panic("stores: a class always encodes: " + err.Error())
	}
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:10])
}

// KeyOf returns which store a job has; ok is false if its store is to be gone with it.
func (p *Pool) KeyOf(job Job) (key Key, ok bool, err error) {
	c := class{ImageID: job.Image.ID, Platform: job.Image.Platform, User: job.User, Operator: job.Operator}
	switch {
	case p.options.Mode == Shared: // all its jobs trust each other
		return p.key(c, job), true, nil
	case p.options.Mode != Repository || job.Repository == "":
		return Key{}, false, nil
	}
	c.Repository, c.Keys, c.Unsigned = job.Repository, set(job.Keys), set(job.Unsigned)
	if job.Flakes {
		c.Branch = "branch " + job.Branch // also of the default branch
	}
	if c.Pushes, err = p.metadata.digest(job.Pushes); err != nil {
		return Key{}, false, err
	}
	if c.Reads, err = p.metadata.digest(job.Reads); err != nil {
		return Key{}, false, err
	}
	return p.key(c, job), true, nil
}

func (p *Pool) key(c class, job Job) Key {
	return Key{Name: volumeName(p.options.Instance, c.id()), Repository: c.Repository, User: c.User, Image: job.Image}
}

// set returns some texts sorted, each once.
func set(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}

// digest returns what stands for some texts, from which nobody without the secret of stores can tell
// whether they are the ones. It is empty of none.
func (m metadata) digest(texts []string) (string, error) {
	if texts == nil {
		return "", nil
	}
	secret, err := m.secret()
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(texts)
	if err != nil {
		panic("stores: texts always encode: " + err.Error())
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(text)
	return hex.EncodeToString(mac.Sum(nil)), nil
}

const (
	// secretFile is the file in the folder of the metadata with the secret of its builders. When
	// it is lost, jobs that push begin with new stores.
	secretFile   = "secret"
	secretLength = 32 // bytes
)

// secret returns the secret by which stores of jobs that push are named, and makes it first.
func (m metadata) secret() ([]byte, error) {
	name := filepath.Join(m.folder, secretFile)
	secret, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := m.makeSecret(name); err != nil {
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
func (m metadata) makeSecret(name string) error {
	if err := os.MkdirAll(m.folder, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(m.folder, secretFile+".*")
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
