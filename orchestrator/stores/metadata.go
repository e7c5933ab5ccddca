package stores

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

// An entry is the metadata of one store that the engine cannot keep.
type entry struct {
	Repository string    `json:"repository"` // empty: all jobs share the store
	Image      string    `json:"image"`      // name
	ImageID    string    `json:"imageID"`
	Used       time.Time `json:"used"`     // when a job used it last
	Bytes      int64     `json:"bytes"`    // its size, or an estimate
	Measured   bool      `json:"measured"` // the store was maintained after its last job
}

// Metadata is the folder with the metadata of stores, one file for each. Several builders may share it. If a file is
// lost, its content is determined again.
type metadata struct{ folder string }

const entryExtension = ".json"

func (m metadata) file(store string) string { return filepath.Join(m.folder, store+entryExtension) }

// read returns the entry of a store. ok is false if there is none, or it cannot be read.
func (m metadata) read(store string) (e entry, ok bool) {
	text, err := os.ReadFile(m.file(store))
	return e, err == nil && json.Unmarshal(text, &e) == nil
}

// write replaces the entry of a store.
func (m metadata) write(store string, e entry) error {
	text, err := json.Marshal(e)
	if err != nil {
		panic("stores: an entry always encodes: " + err.Error())
	}
	if err := m.replace(store, text); err != nil {
		return fmt.Errorf("write the metadata of a store: %w", err)
	}
	return nil
}

func (m metadata) replace(store string, text []byte) error {
	if err := os.MkdirAll(m.folder, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(m.folder, store+".*.new")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Close()); err != nil {
		os.Remove(file.Name())
		return err
	}
	return os.Rename(file.Name(), m.file(store))
}

func (m metadata) remove(store string) error {
	if err := os.Remove(m.file(store)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// size returns the number of entries, and the sum of their sizes in bytes.
func (m metadata) size() (stores int, bytes int64) {
	entries, _ := m.all()
	for _, e := range entries {
		bytes += e.Bytes
	}
	return len(entries), bytes
}

// all returns every entry, by the name of its store.
func (m metadata) all() (map[string]entry, error) {
	files, err := os.ReadDir(m.folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	entries := make(map[string]entry)
	for _, file := range files {
		if store, ok := strings.CutSuffix(file.Name(), entryExtension); ok {
			if e, ok := m.read(store); ok {
				entries[store] = e
			}
		}
	}
	return entries, nil
}
