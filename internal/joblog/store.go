package joblog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"iglu.sh/builder/internal/redact"
)

// Keep says how long logs of ended jobs are kept.
type Keep struct {
	Jobs int           // how many of them; 0: none
	Age  time.Duration // since they ended; 0: however long
	// Bytes bounds all logs together, with their journals and those of jobs that run; 0: no bound. The
	// latest is kept in any case.
	Bytes int64
}

// A Store is the folder in which the logs of jobs lie, each with its journal beside it. No two
// stores may share one.
type Store struct {
	folder   string
	keep     Keep
	maxBytes int64

	// Written is told of what is added to logs, for the numbers that are kept of it; nil
	// is nobody. It is set before the first log is made, and returns at once.
	Written func(bytes, lines int64)

	mu      sync.Mutex
	current map[string]*index // of logs that are written now, by their jobs
	read    []indexed         // those of ended jobs that were read, the latest last
}

// The extensions of a log's file and of its journal's. Their name is the job's id.
const (
	extension        = ".log"
	journalExtension = ".events"
)

// Open returns the store in a folder, which is made if it is missing. A log takes at
// most maxBytes. Logs of an earlier run that are not to be kept are removed.
func Open(folder string, keep Keep, maxBytes int64) (*Store, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the jobs' logs: %w", err)
	}
	s := &Store{folder: folder, keep: keep, maxBytes: maxBytes, current: make(map[string]*index)}
	return s, s.Prune()
}

// Create starts the log of a job, whose id must be a file name. What is appended loses
// the secrets that redactor knows.
func (s *Store) Create(job string, redactor *redact.Redactor) (*Log, error) {
	s.mu.Lock() // so that a reader finds no files that nobody seems to write
	defer s.mu.Unlock()
	file, err := s.create(job + extension)
	if err != nil {
		return nil, fmt.Errorf("start a job's log: %w", err)
	}
	journal, err := s.create(job + journalExtension)
	if err != nil {
		file.Close()
		os.Remove(file.Name())
		return nil, fmt.Errorf("start a job's journal: %w", err)
	}
	log := logIn(file, journal, s.maxBytes, redactor)
	if s.Written != nil {
		log.written = s.Written
	}
	log.closed = func() {
		s.mu.Lock()
		delete(s.current, job)
		s.mu.Unlock()
		s.Prune() // what cannot be removed now is tried again
	}
	s.current[job] = log.index
	return log, nil
}

func (s *Store) create(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(s.folder, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// Has reports whether a job has a log that is kept.
func (s *Store) Has(job string) bool {
	_, err := os.Stat(filepath.Join(s.folder, job+extension))
	return err == nil
}

// Prune removes the logs that are not kept any longer. A store does it itself when it is opened
// and when a job ends; logs also age in between.
func (s *Store) Prune() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended, err := s.ended()
	if err != nil {
		return fmt.Errorf("look for old logs: %w", err)
	}
	var errs []error
	total := s.currentBytes()
	for i, log := range ended {
		job := strings.TrimSuffix(log.Name(), extension)
		total += log.Size() + s.sizeOf(job+journalExtension)
		tooMuch := s.keep.Bytes > 0 && total > s.keep.Bytes && i > 0
		if i >= s.keep.Jobs || tooMuch || (s.keep.Age > 0 && time.Since(log.ModTime()) > s.keep.Age) {
			// The log last: without it, nobody would look for the journal.
			errs = append(errs, s.remove(job+journalExtension), s.remove(log.Name()))
		}
	}
	return errors.Join(errs...)
}

// currentBytes returns how many bytes the logs of jobs that run take. s.mu is held.
func (s *Store) currentBytes() (bytes int64) {
	for _, x := range s.current {
		x.mu.Lock()
		bytes += x.size + x.journal.size()
		x.mu.Unlock()
	}
	return bytes
}

// sizeOf returns the size of a file in bytes, or 0 if it is not there.
func (s *Store) sizeOf(name string) int64 {
	info, err := os.Stat(filepath.Join(s.folder, name))
	if err != nil {
		return 0
	}
	return info.Size()
}

func (s *Store) remove(name string) error {
	err := os.Remove(filepath.Join(s.folder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ended returns the logs of jobs that have ended, the newest first.
func (s *Store) ended() ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return nil, err
	}
	var logs []fs.FileInfo
	for _, entry := range entries {
		job, isLog := strings.CutSuffix(entry.Name(), extension)
		if _, current := s.current[job]; current || !isLog {
			continue
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			logs = append(logs, info)
		}
	}
	slices.SortFunc(logs, func(a, b fs.FileInfo) int {
		return cmp.Or(b.ModTime().Compare(a.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	return logs, nil
}
