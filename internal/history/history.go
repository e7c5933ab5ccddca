// Package history stores a record of each job: what the job was asked to do, and how it ended. Records
// survive a restart of the builder. They are in one file, an embedded database. The builder keeps a record
// for as long as it keeps the job's log.
//
// The caller must mask the secrets in a record before it stores the record.
package history

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"iglu.sh/builder/internal/jobend"
)

const (
	// maxText is the length in bytes at which a text of a record is cut. A command may be as long as a
	// job's message, but people only need to recognize it.
	maxText = 2 << 10
	// maxPart is the largest size of a job's request, results and verdict in its record, in bytes each. A larger
	// one is left out.
	maxPart = 16 << 10
	// lockTimeout is how long Open waits for another process that has the file open, such as the builder
	// that this one replaces.
	lockTimeout = time.Second
)

// format is the number of the format of a builder's files: records, logs and store metadata. It is increased
// by each version whose files earlier versions cannot read. Files without a number have format 1.
const format = 1

// The bucket records holds the records, sorted by the time at which their jobs began. The bucket ids maps the
// id of a job to the key of its record. The bucket meta holds the format.
var (
	recordsBucket = []byte("records")
	idsBucket     = []byte("ids")
	metaBucket    = []byte("meta")
	formatKey     = []byte("format")
)

// ErrInUse is returned for a file that another process has open.
var ErrInUse = errors.New("another process has it open")

// ErrNewer is returned for a file that a newer version of the builder has written.
var ErrNewer = errors.New("a newer version of the builder has written it")

// ErrNotFound is returned for a job without a record.
var ErrNotFound = errors.New("there is no record of the job")

// A History is an open file of records. Its methods are safe for concurrent use.
type History struct {
	db *bbolt.DB

	mu       sync.RWMutex
	unstored map[string]Record   // by job: those that are not written yet, for example because the disk was full
	unended  map[string]struct{} // the ids of the jobs that have not ended
}

// maxUnstored is how many records are kept in memory until they can be written.
const maxUnstored = 1000

// Open opens the history in a file, which it creates if it is missing. A record without an end is from a
// builder that was killed: Open marks its job as interrupted. The error is ErrInUse, ErrNewer, or that of the
// file or its content.
func Open(name string) (*History, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the history: %w", err)
	}
	h := &History{unstored: make(map[string]Record), unended: make(map[string]struct{})}
	err := guard(func() (err error) {
		if h.db, err = bbolt.Open(name, 0o600, &bbolt.Options{Timeout: lockTimeout}); err != nil {
			return err
		}
		if err := h.checkFormat(); err != nil {
			return err
		}
		return h.interrupt()
	})
	if err == nil {
		return h, nil
	}
	if h.db != nil {
		h.db.Close()
	}
	if errors.Is(err, bolterrors.ErrVersionMismatch) { // of the database's own format
		err = ErrNewer
	}
	pathErr, ok := errors.AsType[*os.PathError](err)
	if number, isCall := errors.AsType[syscall.Errno](err); isCall && !ok { // the database does not say which call has failed
		pathErr, ok = &os.PathError{Op: "use", Path: name, Err: number}, true
	}
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open the history %s: %w", name, ErrInUse)
	case ok:
		return nil, fmt.Errorf("open the history: %w", pathErr)
	case errors.Is(err, ErrNewer):
		return nil, fmt.Errorf("open the history %s: %w", name, err)
	}
	return nil, fmt.Errorf("the history %s is damaged: %w"+
		"\nhint: move the file away; the history starts empty, and the logs are kept", name, err)
}

// guard calls read and turns a panic into an error. The database maps the file into memory: for a damaged
// file it panics, or causes a memory fault.
func guard(read func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	return read()
}

// checkFormat returns ErrNewer if the file has an unknown format. It then changes nothing.
func (h *History) checkFormat() error {
	return h.db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		text := meta.Get(formatKey)
		if text == nil {
			return meta.Put(formatKey, []byte(strconv.Itoa(format)))
		}
		number, err := strconv.Atoi(string(text))
		if err == nil && number > format {
			return fmt.Errorf("%w: its format is %d, and this version knows those up to %d", ErrNewer, number, format)
		}
		return err
	})
}

// interrupt marks the jobs whose record has no end as interrupted. It reads all records, so that a damaged
// file is noticed now and not when a job needs it.
func (h *History) interrupt() error {
	return h.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{recordsBucket, idsBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		var cut []Record
		err := tx.Bucket(recordsBucket).ForEach(func(_, value []byte) error {
			var r Record
			if err := json.Unmarshal(value, &r); err != nil {
				return err
			}
			if r.End == "" {
				cut = append(cut, r)
			}
			return nil
		})
		for _, r := range cut {
			r.End = jobend.Interrupted
			err = errors.Join(err, put(tx, r))
		}
		return err
	})
}

// Close closes the file.
func (h *History) Close() error { return h.db.Close() }

// Put stores a record. It replaces the job's previous record, if there is one. If the file cannot be written, Put
// returns an error, and the record is written later, by the next Put or Prune that succeeds.
func (h *History) Put(r Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unstored[r.Job] = r.bounded()
	if r.Runs() {
		h.unended[r.Job] = struct{}{}
	} else {
		delete(h.unended, r.Job)
	}
	if err := h.update(func(*bbolt.Tx) error { return nil }); err != nil {
		if len(h.unstored) > maxUnstored {
			delete(h.unstored, r.Job)
			delete(h.unended, r.Job)
		}
		return fmt.Errorf("store a job's record: %w", err)
	}
	return nil
}

// update changes the file, after it has written the records that could not be written before. mu is held.
func (h *History) update(change func(tx *bbolt.Tx) error) error {
	err := h.db.Update(func(tx *bbolt.Tx) error {
		for job, r := range h.unstored {
			if err := put(tx, r); err != nil {
				delete(h.unstored, job) // it is invalid, and would prevent all others
				return err
			}
		}
		return change(tx)
	})
	if err == nil {
		clear(h.unstored)
	}
	return err
}

func put(tx *bbolt.Tx, r Record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	key := tx.Bucket(idsBucket).Get([]byte(r.Job))
	if key == nil {
		key = keyFor(r)
		if err := tx.Bucket(idsBucket).Put([]byte(r.Job), key); err != nil {
			return err
		}
	}
	return tx.Bucket(recordsBucket).Put(key, value)
}

// keyFor returns the key of a new record. Keys are in the order of the times at which the jobs began.
func keyFor(r Record) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(r.Begun.UnixNano())), r.Job...)
}

// Get returns a job's record, or ErrNotFound.
func (h *History) Get(job string) (r Record, err error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if r, ok := h.unstored[job]; ok {
		return r, nil
	}
	err = h.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(recordsBucket).Get(tx.Bucket(idsBucket).Get([]byte(job)))
		if value == nil {
			return ErrNotFound
		}
		return json.Unmarshal(value, &r)
	})
	return r, err
}

// Unended returns the records of the jobs that have not ended, the newest first. It reads only the records that are newer
// than the oldest of them.
func (h *History) Unended() ([]Record, error) {
	h.mu.RLock()
	count := len(h.unended)
	h.mu.RUnlock()
	return h.Find("", count, Record.Runs)
}

// Find returns up to limit records that match, the newest first. before is the id of a job: Find then returns
// only jobs that began before it, or ErrNotFound if it has no record. If before is empty, Find searches all
// jobs.
func (h *History) Find(before string, limit int, match func(Record) bool) (records []Record, err error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	err = h.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(recordsBucket).Cursor()
		key, value := cursor.Last()
		unstored := h.missingIn(tx)
		if before != "" {
			at := h.keyOf(tx, before)
			if at == nil {
				return ErrNotFound
			}
			if found, _ := cursor.Seek(at); found != nil {
				key, value = cursor.Prev()
			} else {
				key, value = cursor.Last()
			}
			unstored = slices.DeleteFunc(unstored, func(r Record) bool { return bytes.Compare(keyFor(r), at) >= 0 })
		}
		for len(records) < limit && (key != nil || len(unstored) > 0) {
			var r Record
			if len(unstored) > 0 && bytes.Compare(keyFor(unstored[0]), key) > 0 {
				r, unstored = unstored[0], unstored[1:]
			} else {
				if err := json.Unmarshal(value, &r); err != nil {
					return err
				}
				if latest, ok := h.unstored[r.Job]; ok {
					r = latest
				}
				key, value = cursor.Prev()
			}
			if match(r) {
				records = append(records, r)
			}
		}
		return nil
	})
	return records, err
}

// missingIn returns the unstored records of which the file has no earlier state, the newest first. mu is held.
func (h *History) missingIn(tx *bbolt.Tx) (missing []Record) {
	for job, r := range h.unstored {
		if tx.Bucket(idsBucket).Get([]byte(job)) == nil {
			missing = append(missing, r)
		}
	}
	slices.SortFunc(missing, func(a, b Record) int { return bytes.Compare(keyFor(b), keyFor(a)) })
	return missing
}

// keyOf returns the key of a job's record, or nil if there is none. mu is held.
func (h *History) keyOf(tx *bbolt.Tx, job string) []byte {
	key := tx.Bucket(idsBucket).Get([]byte(job))
	if r, ok := h.unstored[job]; ok && key == nil {
		return keyFor(r)
	}
	return key
}

// Prune removes the records of ended jobs for which keep returns false. It writes nothing if there are none, because a
// write waits for the disk.
func (h *History) Prune(keep func(job string) bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	unwanted, err := h.without(keep)
	if err == nil && len(unwanted)+len(h.unstored) > 0 {
		err = h.update(func(tx *bbolt.Tx) error { return removeEnded(tx, unwanted) })
	}
	if err != nil {
		return fmt.Errorf("remove old records of jobs: %w", err)
	}
	return nil
}

// without returns the ids of the stored jobs for which keep returns false. Their records are not read. mu is held.
func (h *History) without(keep func(job string) bool) (jobs []string, err error) {
	err = h.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(idsBucket).ForEach(func(job, _ []byte) error {
			if id := string(job); !keep(id) {
				jobs = append(jobs, id)
			}
			return nil
		})
	})
	return jobs, err
}

// removeEnded removes the records of those of the jobs that have ended.
func removeEnded(tx *bbolt.Tx, jobs []string) error {
	records, ids := tx.Bucket(recordsBucket), tx.Bucket(idsBucket)
	for _, job := range jobs {
		key := ids.Get([]byte(job))
		var r Record
		if err := json.Unmarshal(records.Get(key), &r); err != nil {
			return err
		}
		if r.Runs() {
			continue
		}
		if err := cmp.Or(records.Delete(key), ids.Delete([]byte(job))); err != nil {
			return err
		}
	}
	return nil
}
