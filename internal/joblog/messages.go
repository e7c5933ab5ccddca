package joblog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"iglu.sh/builder/schemas"
)

// maxBatch is how many messages a reader is given at once.
const maxBatch = 1024

// FollowMessages gives take the job's messages from one on, which is counted from 1, as soon
// as they are there, until the log is sealed and all are given, or ctx ends, or take or a
// file fails. It returns nil only in the first case. What take is given is its own only
// until it returns.
func (r *Reader) FollowMessages(ctx context.Context, seq int64, take func([]schemas.Message) error) error {
	return r.followMessages(ctx, r.file, seq, take)
}

// FollowEvents is FollowMessages without lines of output, which it does not read.
func (r *Reader) FollowEvents(ctx context.Context, seq int64, take func([]schemas.Message) error) error {
	return r.followMessages(ctx, nil, seq, take)
}

// followMessages leaves lines out where there is no log.
func (r *Reader) followMessages(ctx context.Context, log io.ReaderAt, seq int64, take func([]schemas.Message) error) error {
	x := r.index
	f := follower{index: x, file: log, from: seq, take: take}
	x.mu.Lock()
	at := x.journal.before(seq)
	x.mu.Unlock()
	return r.records(ctx, at, func(at place, rec *record) error { return f.give(ctx, at, rec) }, func(bool) error { return f.flush() })
}

// records gives visit the records of the journal from a place on, until the log is sealed and all are
// given, or ctx ends, or visit, pause or the file fails. What a record holds is overwritten when visit
// has returned. pause is called whenever some have been given, and told whether there are more already.
func (r *Reader) records(ctx context.Context, at place, visit func(place, *record) error, pause func(more bool) error) error {
	x := r.index
	for buf := make([]byte, flushSize); ; {
		size, err := x.wait(ctx, ofJournal, at.offset)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if at, buf, err = r.readRecords(buf, at, size, visit); err != nil {
			return err
		}
		if err := pause(at.offset < size); err != nil {
			return err
		}
	}
}

// readRecords gives visit the records of the journal from a place on that are whole within a buffer, and
// before size. It returns the place after them, and the buffer, or a larger one if that held none.
func (r *Reader) readRecords(buf []byte, at place, size int64, visit func(place, *record) error) (place, []byte, error) {
	n, err := r.index.readJournal(r.journal, buf[:min(int64(len(buf)), size-at.offset)], at.offset)
	if err != nil {
		return at, buf, fmt.Errorf("read a job's journal: %w", err)
	}
	records := buf[:n]
	for {
		rec, length := parseRecord(records, at.at)
		if length < 0 {
			return at, buf, fmt.Errorf("read a job's journal: no record at byte %d", at.offset)
		}
		if length == 0 {
			break
		}
		if err := visit(at, &rec); err != nil {
			return at, buf, err
		}
		at = at.next(&rec, length)
		records = records[length:]
	}
	if len(records) == n { // one record is longer
		buf = make([]byte, 2*len(buf))
	}
	return at, buf, nil
}

// A follower gives a reader its messages.
type follower struct {
	index *index
	file  io.ReaderAt // the log's
	from  int64       // the first message that is wanted
	take  func([]schemas.Message) error
	batch []schemas.Message

	line   int64 // that comes next in buf
	offset int64 // of buf's end in the log
	buf    []byte
	rest   []byte // of buf, not given yet
}

// give adds what a record at a place stands for.
func (f *follower) give(ctx context.Context, at place, r *record) error {
	if at.messages+r.count < f.from {
		return nil
	}
	message := schemas.Message{Seq: at.messages + 1, Time: time.UnixMilli(r.at).UTC()}
	if r.isLines() {
		if f.file == nil {
			return nil
		}
		message.Stream = streamOfKind[r.kind]
		skip := max(0, f.from-message.Seq)
		message.Seq += skip
		return f.giveLines(ctx, at.lines+skip, r.count-skip, message)
	}
	data := bytes.Clone(r.data) // reading on overwrites it
	if r.kind == eventRecord {
		message.Event = data
		return f.add(message)
	}
	var response responseMessage
	if err := json.Unmarshal(data, &response); err != nil {
		return fmt.Errorf("read a job's journal: %w", err)
	}
	message.Response, message.Event = &response.Response, response.Event
	return f.add(message)
}

// giveLines adds lines of the log, of which message is the first but for its text.
func (f *follower) giveLines(ctx context.Context, line, count int64, message schemas.Message) error {
	if f.buf == nil || f.line != line {
		if err := f.seek(line); err != nil {
			return err
		}
	}
	for range count {
		text, err := f.nextLine(ctx)
		if err != nil {
			return err
		}
		message.Line = text
		if err := f.add(message); err != nil {
			return err
		}
		message.Seq++
	}
	return nil
}

// seek goes to a line of the log.
func (f *follower) seek(line int64) error {
	if err := f.flush(); err != nil {
		return err
	}
	at := f.index.before(line)
	f.line, f.offset, f.rest = at.line, at.offset, nil
	for f.line < line {
		if _, err := f.nextLine(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// nextLine returns the next line, which is there: the journal says so.
func (f *follower) nextLine(ctx context.Context) ([]byte, error) {
	for {
		if end := bytes.IndexByte(f.rest, '\n'); end >= 0 {
			line := f.rest[:end]
			f.rest = f.rest[end+1:]
			f.line++
			return line, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := f.fill(); err != nil {
			return nil, fmt.Errorf("read a job's log: %w", err)
		}
	}
}

// fill reads more of the log, behind what is left of it.
func (f *follower) fill() error {
	if err := f.flush(); err != nil { // whose lines lie in the buffer
		return err
	}
	if len(f.rest) == len(f.buf) {
		f.buf = append(make([]byte, 0, max(followBuffer, 2*len(f.buf))), f.rest...)
		f.buf = f.buf[:cap(f.buf)]
	} else {
		copy(f.buf, f.rest)
	}
	size, _, _ := f.index.state(ofLog)
	kept := len(f.rest)
	n, err := f.file.ReadAt(f.buf[kept:min(int64(len(f.buf)), int64(kept)+size-f.offset)], f.offset)
	if n == 0 {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	f.offset += int64(n)
	f.rest = f.buf[:kept+n]
	return nil
}

func (f *follower) add(m schemas.Message) error {
	f.batch = append(f.batch, m)
	if len(f.batch) == maxBatch {
		return f.flush()
	}
	return nil
}

func (f *follower) flush() error {
	if len(f.batch) == 0 {
		return nil
	}
	err := f.take(f.batch)
	f.batch = f.batch[:0]
	return err
}
