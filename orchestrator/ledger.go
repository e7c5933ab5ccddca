package orchestrator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A condition is what a store is known to be in.
type condition string

const (
	filling condition = "filling" // its first job's container is being made
	leased  condition = "leased"  // a job has it
	sound   condition = "sound"   // whoever had it last ended by itself
	suspect condition = "suspect" // that was killed, or is not known
)

// entry is what a builder knows of a store and the engine does not.
type entry struct {
	Repository string    `json:"repository"` // empty: that of all jobs
	Image      string    `json:"image"`      // name
	ImageID    string    `json:"imageID"`
	Condition  condition `json:"condition"`
	Lease      string    `json:"lease"` // the job that has it; empty: none
	Used       time.Time `json:"used"`  // when a job had it last
	Bytes      int64     `json:"bytes"` // its size, or a guess
	Measured   bool      `json:"measured"`
}

// A ledger is the folder where a builder writes down what it knows of its stores, a file
// each: what a builder that was killed knew, its next life has to know.
type ledger struct{ folder string }

const entryExtension = ".json"

func (l ledger) file(store string) string { return filepath.Join(l.folder, store+entryExtension) }

// read returns the entry of a store. What cannot be read is as good as none.
func (l ledger) read(store string) (e entry, ok bool) {
	text, err := os.ReadFile(l.file(store))
	return e, err == nil && json.Unmarshal(text, &e) == nil
}

// write replaces the entry of a store. When it returns, the entry outlives a loss of power.
func (l ledger) write(store string, e entry) error {
	text, err := json.Marshal(e)
	if err != nil {
		panic("orchestrator: an entry always encodes: " + err.Error())
	}
	if err := l.replace(store, text); err != nil {
		return fmt.Errorf("write down what a store is in: %w", err)
	}
	return nil
}

func (l ledger) replace(store string, text []byte) error {
	if err := os.MkdirAll(l.folder, 0o700); err != nil {
		return err
	}
	// Only one job writes at a time, so the name need not be its own.
	file, err := os.OpenFile(l.file(store)+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), l.file(store)); err != nil {
		return err
	}
	folder, err := os.Open(l.folder)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (l ledger) remove(store string) error {
	if err := os.Remove(l.file(store)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// size returns how many entries there are, and how many bytes they say together.
func (l ledger) size() (stores int, bytes int64) {
	entries, _ := l.all()
	for _, e := range entries {
		bytes += e.Bytes
	}
	return len(entries), bytes
}

// all returns every entry, by the name of its store.
func (l ledger) all() (map[string]entry, error) {
	files, err := os.ReadDir(l.folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	entries := make(map[string]entry)
	for _, file := range files {
		if store, ok := strings.CutSuffix(file.Name(), entryExtension); ok {
			if e, ok := l.read(store); ok {
				entries[store] = e
			}
		}
	}
	return entries, nil
}
