// Package history stores a record of each job: what the job was asked to do, and how it ended. Records
// survive a restart of the builder. They are in one file, an embedded database. The builder keeps a record
// for as long as it keeps the job's log. What lists of jobs need is also in memory, so that they do not read the file.
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

	mu       sync.Mutex        // held while the file is written, but not while it is read
	briefs   []*brief          // sorted by key; a change replaces the slice
	unstored map[string]Record // by job: those that are not written yet, for example because the disk was full
}

// A brief is the latest state of a record, without its parts, and the record's key.
type brief struct {
	key    []byte
	record Record
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
	h := &History{unstored: make(map[string]Record)}
	err := guard(func() (err error) {
		if h.db, err = bbolt.Open(name, 0o600, &bbolt.Options{Timeout: lockTimeout}); err != nil {
			return err
		}
		if err := h.checkFormat(); err != nil {
			return err
		}
		return h.load()
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

// load reads all records, and marks the jobs whose record has no end as interrupted. A damaged file is so noticed now
// and not when a job needs it.
func (h *History) load() error {
	return h.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{recordsBucket, idsBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		var cut []Record
		err := tx.Bucket(recordsBucket).ForEach(func(key, value []byte) error {
			var r Record
			if err := json.Unmarshal(value, &r); err != nil {
				return err
			}
			if r.Runs() {
				r.End = jobend.Interrupted
				cut = append(cut, r)
			}
			h.briefs = append(h.briefs, &brief{bytes.Clone(key), r.withoutParts()})
			return nil
		})
		for _, r := range cut {
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
	r = r.bounded()
	h.unstored[r.Job] = r
	err := h.update(func(*bbolt.Tx) error { return nil })
	if err != nil && len(h.unstored) > maxUnstored {
		delete(h.unstored, r.Job)
	}
	if _, ok := h.unstored[r.Job]; ok || err == nil {
		h.setBrief(r.withoutParts())
	}
	if err != nil {
		return fmt.Errorf("store a job's record: %w", err)
	}
	return nil
}

// setBrief replaces the brief of a record, or adds it. mu is held.
func (h *History) setBrief(r Record) {
	briefs := slices.Clone(h.briefs)
	if i := indexOf(briefs, r.Job); i >= 0 {
		briefs[i] = &brief{briefs[i].key, r}
	} else {
		key := keyFor(r)
		i, _ := slices.BinarySearchFunc(briefs, key, func(b *brief, key []byte) int { return bytes.Compare(b.key, key) })
		briefs = slices.Insert(briefs, i, &brief{key, r})
	}
	h.briefs = briefs
}

// indexOf returns the index of a job's brief, or -1. The latest jobs are found first.
func indexOf(briefs []*brief, job string) int {
	for i, b := range slices.Backward(briefs) {
		if b.record.Job == job {
			return i
		}
	}
	return -1
}

// allBriefs returns the briefs of all records. They must not be changed.
func (h *History) allBriefs() []*brief {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.briefs
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
	h.mu.Lock()
	r, ok := h.unstored[job]
	h.mu.Unlock()
	if ok {
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

// Find returns up to limit records that match, the newest first. It neither reads nor returns their parts: Request,
// Results and Verdict. before is the id of a job: Find then returns only jobs that began before it, or ErrNotFound if it
// has no record. If before is empty, Find searches all jobs.
func (h *History) Find(before string, limit int, match func(Record) bool) (records []Record, err error) {
	briefs := h.allBriefs()
	if before != "" {
		i := indexOf(briefs, before)
		if i < 0 {
			return nil, ErrNotFound
		}
		briefs = briefs[:i]
	}
	for _, b := range slices.Backward(briefs) {
		if len(records) >= limit {
			break
		}
		if match(b.record) {
			records = append(records, b.record)
		}
	}
	return records, nil
}

// Prune removes the records of ended jobs for which keep returns false. It writes nothing if there are none, because a
// write waits for the disk.
func (h *History) Prune(keep func(job string) bool) error {
	unwanted := make(map[string]bool)
	for _, b := range h.allBriefs() {
		if !b.record.Runs() && !keep(b.record.Job) {
			unwanted[b.record.Job] = true
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(unwanted)+len(h.unstored) == 0 {
		return nil
	}
	if err := h.update(func(tx *bbolt.Tx) error { return remove(tx, unwanted) }); err != nil {
		return fmt.Errorf("remove old records of jobs: %w", err)
	}
	h.briefs = slices.DeleteFunc(slices.Clone(h.briefs), func(b *brief) bool { return unwanted[b.record.Job] })
	return nil
}

// remove removes the records of jobs.
func remove(tx *bbolt.Tx, jobs map[string]bool) error {
	records, ids := tx.Bucket(recordsBucket), tx.Bucket(idsBucket)
	for job := range jobs {
		if err := cmp.Or(records.Delete(ids.Get([]byte(job))), ids.Delete([]byte(job))); err != nil {
			return err
		}
	}
	return nil
}
