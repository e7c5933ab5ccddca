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
	Jobs int           // the largest number of them; 0: none is kept
	Age  time.Duration // the longest time since they ended; 0: no limit
	// Bytes is the largest size of all logs and journals together, including those of running jobs; 0: no
	// limit. The log of the job that ended last is kept even if it is larger.
	Bytes int64
}

// A Store is the folder that holds the logs of jobs and their journals. Two stores must not use the same
// folder.
type Store struct {
	folder   string
	keep     Keep
	maxBytes int64

	// Written is called for all that is written to logs, for the metrics. It must return immediately. It
	// may be nil, and must be set before the first log is created.
	Written func(bytes, lines int64)

	mu      sync.Mutex
	current map[string]*index // the indexes of logs that are being written, by job
	read    []*indexed        // the indexes of ended jobs that were read, the latest last

	reading chan struct{} // has an item for each index of an ended job that is being built
}

// The extensions of the files of a log and its journal. Their base name is the job's id.
const (
	extension        = ".log"
	journalExtension = ".events"
)

// Open returns the store in a folder. It creates the folder if it is missing, and removes old logs as Prune
// does. A log, and its journal, take at most maxBytes each.
func Open(folder string, keep Keep, maxBytes int64) (*Store, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the jobs' logs: %w", err)
	}
	s := &Store{folder: folder, keep: keep, maxBytes: maxBytes, current: make(map[string]*index), reading: make(chan struct{}, maxReading)}
	return s, s.Prune()
}

// Create creates the log of a job, whose id must be valid as a file name. redactor masks the secrets in what
// is appended.
func (s *Store) Create(job string, redactor *redact.Redactor) (*Log, error) {
	s.mu.Lock() // so that a reader does not find files without an index in s.current
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
		s.Prune() // what cannot be removed now is removed by a later Prune
	}
	s.current[job] = log.index
	return log, nil
}

// create creates a file in the folder, and the folder if somebody has removed it.
func (s *Store) create(name string) (*os.File, error) {
	if err := os.Mkdir(s.folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.OpenFile(filepath.Join(s.folder, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// Has reports whether the store has a log of the job. It returns true if that cannot be known now, because what
// belongs to a log is removed when the log is gone.
func (s *Store) Has(job string) bool {
	_, err := os.Stat(filepath.Join(s.folder, job+extension))
	return !errors.Is(err, fs.ErrNotExist)
}

// Prune removes the logs that Keep no longer covers. The store calls it when it is opened and when a job ends.
// Call it also from time to time, because logs become too old in between.
func (s *Store) Prune() error {
	old, err := s.old()
	if err != nil {
		return fmt.Errorf("look for old logs: %w", err)
	}
	var errs []error
	for _, job := range old {
		// The log last: a journal without a log is never removed.
		errs = append(errs, s.remove(job+journalExtension), s.remove(job+extension))
	}
	return errors.Join(errs...)
}

// old returns the jobs whose logs Keep no longer covers.
func (s *Store) old() (jobs []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended, err := s.ended()
	if err == nil && s.correctTimes(ended) {
		ended, err = s.ended()
	}
	if err != nil {
		return nil, err
	}
	total := s.currentBytes()
	for i, log := range ended {
		job := strings.TrimSuffix(log.Name(), extension)
		total += log.Size() + s.sizeOf(job+journalExtension)
		tooMuch := s.keep.Bytes > 0 && total > s.keep.Bytes && i > 0
		if i >= s.keep.Jobs || tooMuch || (s.keep.Age > 0 && time.Since(log.ModTime()) > s.keep.Age) {
			jobs = append(jobs, job)
		}
	}
	return jobs, nil
}

// clockTolerance is how far the clock of a file server may be ahead.
const clockTolerance = time.Minute

// correctTimes corrects the times of logs that are in the future, because the clock was ahead when they were written, and
// reports whether there were any. Otherwise they would count as newer than the log of a job that has just ended, and would
// not become old. ended is the result of s.ended.
func (s *Store) correctTimes(ended []fs.FileInfo) (changed bool) {
	now := time.Now()
	for i, log := range ended {
		if !log.ModTime().After(now.Add(clockTolerance)) {
			break // so are those after it
		}
		then := now.Add(-clockTolerance - time.Duration(i)*time.Millisecond) // in their order
		changed = os.Chtimes(filepath.Join(s.folder, log.Name()), time.Time{}, then) == nil || changed
	}
	return changed
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

// sizeOf returns the size of a file in bytes, or 0 if the file does not exist.
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
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
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
