// Package history keeps a record of each job beyond its end and the builder's: what it was
// asked to do, and how it ended. It is an embedded database, one file, of as many records as
// there are logs of jobs.
//
// A record holds no secret: whoever writes one has taken them out of its texts.
package history

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"iglu.sh/builder/internal/jobend"
)

const (
	// maxText is the length in bytes at which a text of a record is cut. A command may be
	// as long as a job's message, and is only to be recognized here.
	maxText = 2 << 10
	// maxRequest is the length in bytes beyond which a record is without its job's request.
	maxRequest = 16 << 10
	// lockTimeout is how long another process that has the file open is waited for: one
	// that is being replaced by this.
	lockTimeout = time.Second
)

// format is the number of the form in which a builder keeps what outlives it: records, logs and what it
// knows of stores. A version that those before it could not read has a higher one. Files without one
// are of the first.
const format = 1

// Records lie by when their jobs began, so that the newest are the last; ids says where. meta has the
// format.
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

// ErrNotFound is returned for a job of which there is no record.
var ErrNotFound = errors.New("there is no record of the job")

// A History is an open file of records. Its methods are safe for concurrent use.
type History struct{ db *bbolt.DB }

// Open opens the history in a file, which is made if it is missing. Jobs that have a record
// but no end have lost their builder, and are said to be interrupted.
func Open(name string) (*History, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the history: %w", err)
	}
	h := new(History)
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
	switch pathErr, ok := errors.AsType[*os.PathError](err); {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open the history %s: %w", name, ErrInUse)
	case ok:
		return nil, fmt.Errorf("open the history: %w", pathErr)
	case errors.Is(err, ErrNewer):
		return nil, fmt.Errorf("open the history %s: %w", name, err)
	}
	return nil, fmt.Errorf("the history %s is damaged: %w"+
		"\nhint: move the file away; the history begins anew, and the logs stay", name, err)
}

// guard returns also what goes wrong where a damaged file is read. The database reads it as
// memory: it panics, or the memory is not there.
func guard(read func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	return read()
}

// checkFormat returns ErrNewer if the file is of a format that is not known. It changes nothing then.
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

// interrupt ends the records of jobs that nobody runs any more. It reads all records, so that
// a damaged file is found now and not by a job.
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

// Put keeps a record, in place of the one that the job has, if any.
func (h *History) Put(r Record) error {
	err := h.db.Update(func(tx *bbolt.Tx) error { return put(tx, r.bounded()) })
	if err != nil {
		return fmt.Errorf("keep a job's record: %w", err)
	}
	return nil
}

func put(tx *bbolt.Tx, r Record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	key := tx.Bucket(idsBucket).Get([]byte(r.Job))
	if key == nil {
		key = binary.BigEndian.AppendUint64(nil, uint64(r.Begun.UnixNano()))
		key = append(key, r.Job...)
		if err := tx.Bucket(idsBucket).Put([]byte(r.Job), key); err != nil {
			return err
		}
	}
	return tx.Bucket(recordsBucket).Put(key, value)
}

// Get returns a job's record, or ErrNotFound.
func (h *History) Get(job string) (r Record, err error) {
	err = h.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(recordsBucket).Get(tx.Bucket(idsBucket).Get([]byte(job)))
		if value == nil {
			return ErrNotFound
		}
		return json.Unmarshal(value, &r)
	})
	return r, err
}

// Newest returns up to limit records, the newest first.
func (h *History) Newest(limit int) (records []Record, err error) {
	return h.Find("", limit, func(Record) bool { return true })
}

// Find returns up to limit records that match, the newest first: of all jobs, or of those that began
// before one. It returns ErrNotFound if there is no record of that.
func (h *History) Find(before string, limit int, match func(Record) bool) (records []Record, err error) {
	err = h.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(recordsBucket).Cursor()
		key, value := cursor.Last()
		if before != "" {
			at := tx.Bucket(idsBucket).Get([]byte(before))
			if at == nil {
				return ErrNotFound
			}
			cursor.Seek(at)
			key, value = cursor.Prev()
		}
		for ; key != nil && len(records) < limit; key, value = cursor.Prev() {
			var r Record
			if err := json.Unmarshal(value, &r); err != nil {
				return err
			}
			if match(r) {
				records = append(records, r)
			}
		}
		return nil
	})
	return records, err
}

// Prune removes the records of jobs that have ended, but for those that keep wants.
func (h *History) Prune(keep func(job string) bool) error {
	err := h.db.Update(func(tx *bbolt.Tx) error {
		var gone []Record
		err := tx.Bucket(idsBucket).ForEach(func(job, key []byte) error {
			if keep(string(job)) { // as most are: their records need not be read
				return nil
			}
			var r Record
			if err := json.Unmarshal(tx.Bucket(recordsBucket).Get(key), &r); err != nil {
				return err
			}
			if r.End != "" {
				gone = append(gone, r)
			}
			return nil
		})
		for _, r := range gone {
			key := tx.Bucket(idsBucket).Get([]byte(r.Job))
			err = cmp.Or(err, tx.Bucket(recordsBucket).Delete(key), tx.Bucket(idsBucket).Delete([]byte(r.Job)))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove old records of jobs: %w", err)
	}
	return nil
}
