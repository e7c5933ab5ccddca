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
	"regexp"
	"slices"

	"iglu.sh/builder/schemas"
)

// A Reader reads the log of a job that runs or has ended. It has files of its own, so that
// it may go on when the log is closed, and even when it is removed. Its methods are safe for
// concurrent use.
type Reader struct {
	log     *Log
	file    *os.File
	journal io.ReaderAt
	close   func() error
}

// jobName is what a job can be called: it becomes a part of names of files.
var jobName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)

// Reader returns a reader of a job's log, which its caller must close. Of a job that has none,
// or none any more, the error is fs.ErrNotExist.
func (s *Store) Reader(job string) (*Reader, error) {
	if !jobName.MatchString(job) {
		return nil, fmt.Errorf("the log of job %q: %w", job, fs.ErrNotExist)
	}
	s.mu.Lock()
	log := s.current[job] // before the files are opened: it may be closed meanwhile
	s.mu.Unlock()
	file, err := os.Open(filepath.Join(s.folder, job+extension))
	if err != nil {
		return nil, fmt.Errorf("open a job's log: %w", err)
	}
	r := &Reader{log: log, file: file, journal: bytes.NewReader(nil), close: file.Close}
	journal, err := os.Open(filepath.Join(s.folder, job+journalExtension))
	switch {
	case err == nil:
		r.journal, r.close = journal, func() error { return errors.Join(file.Close(), journal.Close()) }
	case !errors.Is(err, fs.ErrNotExist): // logs of earlier versions have none
		file.Close()
		return nil, fmt.Errorf("open a job's journal: %w", err)
	}
	if log == nil {
		if r.log, err = s.index(job, file, r.journal); err != nil {
			r.close()
			return nil, fmt.Errorf("read a job's log: %w", err)
		}
	}
	return r, nil
}

// Close ends the reader's use of its files.
func (r *Reader) Close() error { return r.close() }

// Follow is Log.Follow.
func (r *Reader) Follow(ctx context.Context, line int64, w io.Writer) error {
	return r.log.follow(ctx, r.file, line, w)
}

// FollowMessages is Log.FollowMessages.
func (r *Reader) FollowMessages(ctx context.Context, seq int64, take func([]schemas.Message) error) error {
	return r.log.followMessages(ctx, r.file, r.journal, seq, take)
}

// FollowEvents is FollowMessages without lines of output, which it does not read.
func (r *Reader) FollowEvents(ctx context.Context, seq int64, take func([]schemas.Message) error) error {
	return r.log.followMessages(ctx, nil, r.journal, seq, take)
}

// A State is how far a job's log has come.
type State struct {
	Bytes    int64 // of the log: whole lines
	Lines    int64
	Messages int64 // the number of the latest
	Ended    bool  // nothing will be appended any more
}

// State returns how far the log has come.
func (r *Reader) State() State {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	return State{Bytes: l.size, Lines: l.lines, Messages: l.journal.end.messages, Ended: l.sealed || l.failed != nil}
}

// ReadAt reads the log's text, of which State.Bytes are there. It is an io.ReaderAt.
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

// Offset returns where a line begins, counted from 0, in bytes; of a line that is not there
// yet, where the log ends.
func (r *Reader) Offset(line int64) (int64, error) {
	at := r.log.before(line)
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

// indexed is what is known of the log of an ended job.
type indexed struct {
	job string
	log *Log
}

// maxIndexed is of how many ended jobs that is kept.
const maxIndexed = 16

// index returns the log of an ended job, as it is read again.
func (s *Store) index(job string, file io.Reader, journal io.ReaderAt) (*Log, error) {
	s.mu.Lock()
	i := slices.IndexFunc(s.read, func(k indexed) bool { return k.job == job })
	if i >= 0 {
		known := s.read[i]
		s.read = append(slices.Delete(s.read, i, i+1), known)
		s.mu.Unlock()
		return known.log, nil
	}
	s.mu.Unlock()
	l := &Log{sealed: true, changed: make(chan struct{})}
	if err := errors.Join(l.indexLines(file), l.indexRecords(journal)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.read) == maxIndexed {
		s.read = slices.Delete(s.read, 0, 1)
	}
	s.read = append(s.read, indexed{job, l})
	return l, nil
}

// indexLines finds the marks of a log, and its end: a server that was killed may have left
// the beginning of a line behind it.
func (l *Log) indexLines(file io.Reader) error {
	l.marks = []mark{{}}
	for buf, offset := make([]byte, markDistance), int64(0); ; {
		n, err := io.ReadFull(file, buf)
		l.lines += int64(bytes.Count(buf[:n], newline))
		if end := bytes.LastIndexByte(buf[:n], '\n') + 1; end > 0 {
			l.size = offset + int64(end)
			l.marks = append(l.marks, mark{l.lines, l.size})
		}
		offset += int64(n)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
	}
}

// indexRecords finds the marks of a journal. Of a server that was killed, the last records
// may be missing: then one more stands for the lines that the log has beyond them.
func (l *Log) indexRecords(file io.ReaderAt) error {
	j := &l.journal
	for buf := make([]byte, flushSize); ; {
		n, err := file.ReadAt(buf, j.end.offset)
		if err != nil && err != io.EOF {
			return err
		}
		used := 0
		for {
			r, length := parseRecord(buf[used:n], j.end.at)
			if length <= 0 || j.end.next(&r, length).lines > l.lines {
				break
			}
			if k := len(j.marks); k == 0 || j.end.offset-j.marks[k-1].offset >= journalMarkDistance {
				j.marks = append(j.marks, j.end)
			}
			j.end = j.end.next(&r, length)
			used += length
		}
		switch {
		case used > 0:
		case n == len(buf) && n < 2*maxRecord: // one record is longer
			buf = make([]byte, 2*len(buf))
		default:
			j.written = j.end.offset
			j.lines(schemas.Stdout, j.end.at, l.lines-j.end.lines)
			return nil
		}
	}
}
