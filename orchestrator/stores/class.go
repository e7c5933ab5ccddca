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

// This file decides which jobs share a Nix store.
//
// A job's user cannot write into its store, but can decide which paths the daemon puts there: the daemon accepts a path
// as the output of a derivation if the path is signed by a key that the request trusts. So:
//   - Jobs share a store only if they trust the same keys.
//   - Jobs that push share a store only if they push to the same cache with the same key, because others will trust
//     what they push.
//   - Jobs that have tokens for other hosts share a store only if they have the same tokens, because the store
//     contains what was fetched with them.
//   - Jobs that build in Nix's own sandbox share no store with jobs that do not: the results of those may depend on more
//     than their inputs.

// A Job has the properties of a job that decide which store it has.
type Job struct {
	Image      engine.Image
	Repository string   // empty: none is cloned
	User       string   // the user that runs the job
	Sandboxed  bool     // Nix uses its own sandbox
	Keys       []string // public keys that it trusts, in addition to those of the image
	Unsigned   []string // substituters whose paths may need no signature
	Operator   []string // the operator's settings of what all jobs trust
	// Flakes is true if the settings of the job's flake can change what it trusts. Then the store also
	// depends on Branch.
	Flakes bool
	Branch string
	// Pushes are texts that only jobs with the same right to push know; nil: the job does not push. Reads
	// are texts that only jobs with the same tokens for other hosts know; nil: the job has no tokens.
	Pushes []string
	Reads  []string
}

// A Key identifies the store that a job has.
type Key struct {
	Name       string // the name of the store's volume
	Repository string // empty: all jobs share the store
	User       string // the user that runs the store's jobs
	Image      engine.Image
}

// class has the properties that are the same for all jobs that share a store.
type class struct {
	Repository string
	ImageID    string
	Platform   string
	User       string
	Sandboxed  bool     `json:",omitempty"`
	Keys       []string `json:",omitempty"`
	Unsigned   []string `json:",omitempty"`
	Operator   []string `json:",omitempty"` // the operator's settings of what all jobs trust
	Branch     string   `json:",omitempty"` // set only if settings of flakes are accepted
	Pushes     string   `json:",omitempty"` // an HMAC of Job.Pushes; empty: the jobs do not push
	Reads      string   `json:",omitempty"` // an HMAC of Job.Reads; empty: the jobs have no tokens for other hosts
}

// id returns a short identifier of the class, for the name of the volume.
func (c class) id() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic("stores: a class always encodes: " + err.Error())
	}
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:10])
}

// KeyOf returns the key of a job's store. ok is false if the job's store is not kept after the job.
func (p *Pool) KeyOf(job Job) (key Key, ok bool, err error) {
	c := class{ImageID: job.Image.ID, Platform: job.Image.Platform, User: job.User, Sandboxed: job.Sandboxed, Operator: job.Operator}
	switch {
	case p.options.Mode == Shared: // all jobs of the builder trust each other
		return p.key(c, job), true, nil
	case p.options.Mode != Repository || job.Repository == "":
		return Key{}, false, nil
	}
	c.Repository, c.Keys, c.Unsigned = job.Repository, set(job.Keys), set(job.Unsigned)
	if job.Flakes {
		c.Branch = "branch " + job.Branch // not empty for the default branch
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

// set returns the texts sorted and without duplicates.
func set(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}

// digest returns an HMAC of the texts, or "" if texts is nil. Without the secret of stores, nobody can check whether
// it belongs to given texts.
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
	// secretFile is the file with the secret, in the folder of the metadata. If it is lost, jobs that push
	// get new stores.
	secretFile   = "secret"
	secretLength = 32 // bytes
)

// secret returns the secret for the names of the stores of jobs that push or have tokens. It creates the secret if it
// does not exist.
func (m metadata) secret() ([]byte, error) {
	name := filepath.Join(m.folder, secretFile)
	secret, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := m.makeSecret(name); err != nil {
			return nil, fmt.Errorf("create the secret of stores: %w", err)
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

// makeSecret creates the secret, unless another builder creates it at the same time.
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
