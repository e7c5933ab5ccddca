package joblog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"iglu.sh/builder/schemas"
)

// maxBatch is how many messages a reader gets at once.
const maxBatch = 1024

// FollowMessages calls take with the job's messages, from message seq on, as soon as they exist. The first
// message has number 1. FollowMessages returns nil when the log is complete and take has got all messages. It
// returns an error if ctx ends, or take or a file fails. The messages are valid only until take returns.
func (r *Reader) FollowMessages(ctx context.Context, seq int64, take func([]schemas.Message) error) error {
	return r.followMessages(ctx, r.file, seq, gatherDelay, take)
}

// FollowEvents is FollowMessages without the lines of output. It does not read the log. It gathers events for up to
// eventsDelay.
func (r *Reader) FollowEvents(ctx context.Context, seq int64, take func([]schemas.Message) error) error {
	return r.followMessages(ctx, nil, seq, eventsDelay, take)
}

// followMessages leaves out lines if log is nil.
func (r *Reader) followMessages(ctx context.Context, log io.ReaderAt, seq int64, delay time.Duration, take func([]schemas.Message) error) error {
	x := r.index
	f := follower{index: x, file: log, from: seq, take: take}
	x.mu.Lock()
	at := x.journal.before(seq)
	x.mu.Unlock()
	return r.records(ctx, at, delay, func(at position, rec *record) error { return f.give(ctx, at, rec) }, func(bool) error { return f.flush() })
}

// records calls visit for each record of the journal from a position on. It returns when the log is complete
// and visit has got all records, or ctx ends, or visit, pause or the file fails. A record is valid only until
// visit returns. records calls pause after each batch; more is true if further records exist already. delay is that of
// index.wait.
func (r *Reader) records(ctx context.Context, at position, delay time.Duration, visit func(position, *record) error, pause func(more bool) error) error {
	x := r.index
	for buf := make([]byte, flushSize); ; {
		size, err := x.wait(ctx, ofJournal, at.offset, delay)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if at, buf, err = r.readRecords(buf, at, visit); err != nil {
			return err
		}
		if err := pause(at.offset < size); err != nil {
			return err
		}
	}
}

// readRecords reads one buffer of the journal, from a position on, and calls visit for each whole record. It
// returns the position after them, and the buffer; a larger buffer if no record fits.
func (r *Reader) readRecords(buf []byte, at position, visit func(position, *record) error) (position, []byte, error) {
	n, err := r.index.readJournal(r.journal, buf, at.offset)
	if err != nil {
		return at, buf, fmt.Errorf("read a job's journal: %w", err)
	}
	records := buf[:n]
	var rec record // one for all, because visit makes it escape to the heap
	for {
		var length int
		rec, length = parseRecord(records, at.at)
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

// A follower reads messages and passes them to take.
type follower struct {
	index *index
	file  io.ReaderAt // the log's
	from  int64       // the number of the first message that is wanted
	take  func([]schemas.Message) error
	batch []schemas.Message

	line   int64 // the number of the first line in rest
	offset int64 // of buf's end in the log
	buf    []byte
	rest   []byte // the part of buf that is not used yet
}

// give adds the messages of a record at a position.
func (f *follower) give(ctx context.Context, at position, r *record) error {
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
	if r.kind == eventRecord {
		message.Event = r.data // the batch is flushed before more is read
		return f.add(message)
	}
	var response responseMessage
	if err := json.Unmarshal(r.data, &response); err != nil {
		return fmt.Errorf("read a job's journal: %w", err)
	}
	message.Response, message.Event = &response.Response, response.Event
	return f.add(message)
}

// giveLines adds count lines of the log, from line on. message is the message of the first, without its text.
func (f *follower) giveLines(ctx context.Context, line, count int64, message schemas.Message) error {
	if f.buf == nil { // else line is the next one: all lines follow each other
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

// seek moves to a line of the log.
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

// nextLine returns the next line. It exists, because the journal has a record for it.
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

// fill reads more of the log into buf, after what is left in rest.
func (f *follower) fill() error {
	if err := f.flush(); err != nil { // the batch's lines are in buf
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
		return cmp.Or(err, io.ErrUnexpectedEOF)
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
