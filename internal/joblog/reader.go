package joblog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"iglu.sh/builder/internal/lazyregexp"
)

// A Reader reads the log of a job that runs or has ended. It opens the log's files itself, so that it can read
// on when the log is closed, and even when it is removed. Its methods are safe for concurrent use.
type Reader struct {
	index   *index
	file    io.ReaderAt
	journal io.ReaderAt
	close   func() error
}

// followBuffer is how many bytes a reader reads at once. For a longer line, the buffer grows to the line's
// length, which is at most maxLine.
const followBuffer = 128 << 10

// jobName matches the ids of jobs that can be part of a file name.
var jobName = lazyregexp.New(`^[A-Za-z0-9_-]{1,100}$`)

// Reader returns a reader of a job's log. The caller must close it. If the job has no log, or its log was
// removed, the error is fs.ErrNotExist.
func (s *Store) Reader(job string) (*Reader, error) {
	if !jobName().MatchString(job) {
		return nil, fmt.Errorf("the log of job %q: %w", job, fs.ErrNotExist)
	}
	s.mu.Lock()
	x := s.current[job] // before the files are opened: the log may be closed meanwhile
	s.mu.Unlock()
	file, err := os.Open(filepath.Join(s.folder, job+extension))
	if err != nil {
		return nil, fmt.Errorf("open a job's log: %w", err)
	}
	r := &Reader{index: x, file: file, journal: bytes.NewReader(nil), close: file.Close}
	journal, err := os.Open(filepath.Join(s.folder, job+journalExtension))
	switch {
	case err == nil:
		r.journal, r.close = journal, func() error { return errors.Join(file.Close(), journal.Close()) }
	case !errors.Is(err, fs.ErrNotExist): // logs of earlier versions have no journal
		file.Close()
		return nil, fmt.Errorf("open a job's journal: %w", err)
	}
	if x == nil {
		if r.index, err = s.index(job, file, r.journal); err != nil {
			r.close()
			return nil, fmt.Errorf("read a job's log: %w", err)
		}
	}
	return r, nil
}

// Close closes the reader's files.
func (r *Reader) Close() error { return r.close() }

// Follow writes the log to w, from a line on, in whole lines and as soon as they exist. The first line has
// number 0. Follow returns nil when the log is complete and all of it is written. It returns an error if ctx
// ends, or w or the log's file fails.
func (r *Reader) Follow(ctx context.Context, line int64, w io.Writer) error {
	at := r.index.before(line)
	skip, offset := line-at.line, at.offset
	for buf := make([]byte, followBuffer); ; {
		size, err := r.index.wait(ctx, ofLog, offset, gatherDelay)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := r.file.ReadAt(buf[:min(int64(len(buf)), size-offset)], offset)
		if err != nil {
			return fmt.Errorf("read a job's log: %w", err)
		}
		whole := bytes.LastIndexByte(buf[:n], '\n') + 1
		if whole == 0 {
			buf = make([]byte, 2*len(buf))
			continue
		}
		offset += int64(whole)
		lines := buf[:whole]
		for ; skip > 0 && len(lines) > 0; skip-- {
			lines = lines[bytes.IndexByte(lines, '\n')+1:]
		}
		if len(lines) > 0 {
			if _, err := w.Write(lines); err != nil {
				return err
			}
		}
	}
}

// A State is the progress of a job's log.
type State struct {
	Bytes    int64 // the log's size; it consists of whole lines
	Lines    int64
	Messages int64 // the number of the latest message
	Ended    bool  // nothing more will be appended
}

// State returns the progress of the log.
func (r *Reader) State() State {
	x := r.index
	x.mu.Lock()
	defer x.mu.Unlock()
	return State{Bytes: x.size, Lines: x.lines, Messages: x.journal.end.messages, Ended: x.sealed || x.failed != nil}
}

// ReadAt reads the log's text, which has State.Bytes bytes. It implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, offset int64) (int, error) {
	size := r.State().Bytes
	if offset >= size {
		return 0, io.EOF
	}
	if int64(len(p)) <= size-offset {
		return r.file.ReadAt(p, offset)
	}
	n, err := r.file.ReadAt(p[:size-offset], offset)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// Offset returns where a line begins in the log, in bytes. The first line has number 0. For a line that does
// not exist yet, it returns the end of the log.
func (r *Reader) Offset(line int64) (int64, error) {
	at := r.index.before(line)
	size := r.State().Bytes
	for buf := make([]byte, followBuffer); at.line < line && at.offset < size; {
		n, err := r.file.ReadAt(buf[:min(int64(len(buf)), size-at.offset)], at.offset)
		if err != nil {
			return 0, fmt.Errorf("read a job's log: %w", err)
		}
		text := buf[:n]
		for at.line < line && len(text) > 0 {
			end := bytes.IndexByte(text, '\n') + 1
			if end == 0 {
				end = len(text)
			} else {
				at.line++
			}
			text = text[end:]
			at.offset += int64(end)
		}
	}
	return at.offset, nil
}

// indexed is the index of an ended job's log.
type indexed struct {
	job   string
	ready chan struct{} // closed when the other fields are set
	index *index
	err   error
}

// maxIndexed is for how many ended jobs the index is kept in memory.
const maxIndexed = 16

// index returns the index of an ended job's log. If it is not in memory, index builds it from the log's files. Readers
// that are opened meanwhile wait for that: a page opens several at once, and a log can have a gibibyte.
func (s *Store) index(job string, file io.Reader, journal io.ReaderAt) (*index, error) {
	s.mu.Lock()
	i := slices.IndexFunc(s.read, func(k *indexed) bool { return k.job == job })
	if i >= 0 {
		known := s.read[i]
		s.read = append(slices.Delete(s.read, i, i+1), known)
		s.mu.Unlock()
		<-known.ready
		return known.index, known.err
	}
	if len(s.read) == maxIndexed {
		s.read = slices.Delete(s.read, 0, 1)
	}
	known := &indexed{job: job, ready: make(chan struct{}), index: newIndex()}
	s.read = append(s.read, known)
	s.mu.Unlock()
	defer close(known.ready)
	known.index.sealed = true
	if known.err = errors.Join(known.index.readLines(file), known.index.readRecords(journal)); known.err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.read = slices.DeleteFunc(s.read, func(k *indexed) bool { return k == known })
	}
	return known.index, known.err
}
