package joblog

import (
	"encoding/binary"
	"os"
	"sort"
	"time"

	"iglu.sh/builder/schemas"
)

// A journal holds what the log does not: the time and the stream of each line, and all messages that are not
// lines. It is a file of records in the order of the job's messages: one record for each chunk of lines, which
// holds the number of the lines, and one for each other message. The numbers of messages and of lines follow
// from the order.
//
// A record has up to three parts:
//   - A byte: the record's kind and its flags.
//   - The time since the previous record in milliseconds, as a varint. It is negative if the clock was set
//     back. With the flag sameTime, it is missing.
//   - The number of lines, which is missing with the flag oneLine; or the length of the JSON and the JSON.
//
// The record of a chunk of lines mostly takes one to three bytes.
//
// Records are gathered and written in batches, so that a line does not need a second system call. Readers get
// the pending records through the index.
type journal struct {
	file    *os.File
	limit   int64 // of others, in bytes
	written int64 // bytes in the file
	pending []byte
	flushed time.Time  // when pending was last written
	marks   []position // in ascending order
	end     position
	others  int64 // bytes of the records that are not lines
}

// position is where a record begins, and the totals of the records before it.
type position struct {
	offset   int64 // in the journal
	messages int64
	lines    int64
	at       int64 // the time of the previous record, in milliseconds since 1970
}

const (
	// flushSize is how many bytes of records are gathered before they are written. Records are also
	// written with the next record after flushInterval. What is not written is lost if the server is killed.
	flushSize     = 32 << 10
	flushInterval = time.Second
	// journalMarkDistance is the distance between two marks of the journal in bytes.
	journalMarkDistance = 64 << 10
	// The last 1/minorShare of the journal's limit is reserved for events that are not lines of derivations.
	minorShare = 8
)

// The kinds of records, and their flags.
const (
	stdoutLines = iota
	stderrLines
	serverLines
	eventRecord
	responseRecord

	kindMask = 0x07
	sameTime = 0x08 // the time is that of the previous record
	oneLine  = 0x10 // the record is for one line
)

var kindOfStream = map[schemas.Stream]byte{schemas.Stdout: stdoutLines, schemas.Stderr: stderrLines, schemas.Server: serverLines}

var streamOfKind = [...]schemas.Stream{stdoutLines: schemas.Stdout, stderrLines: schemas.Stderr, serverLines: schemas.Server}

func (j *journal) size() int64 { return j.written + int64(len(j.pending)) }

// lines adds a record of lines.
func (j *journal) lines(stream schemas.Stream, at, count int64) {
	if count == 0 {
		return
	}
	kind := kindOfStream[stream]
	if count == 1 {
		kind |= oneLine
	}
	j.begin(kind, at)
	if count > 1 {
		j.pending = binary.AppendUvarint(j.pending, uint64(count))
	}
	j.end.lines += count
	j.end.messages += count
	j.end.offset = j.size()
}

// other adds a record that is not lines.
func (j *journal) other(kind byte, at int64, data []byte) {
	j.begin(kind, at)
	j.pending = binary.AppendUvarint(j.pending, uint64(len(data)))
	j.pending = append(j.pending, data...)
	j.end.messages++
	j.end.offset = j.size()
	j.others += int64(len(data))
}

func (j *journal) begin(kind byte, at int64) {
	if n := len(j.marks); n == 0 || j.end.offset-j.marks[n-1].offset >= journalMarkDistance {
		j.marks = append(j.marks, j.end)
	}
	if at == j.end.at {
		j.pending = append(j.pending, kind|sameTime)
		return
	}
	j.pending = binary.AppendVarint(append(j.pending, kind), at-j.end.at)
	j.end.at = at
}

// hasRoom reports whether an event of that many bytes may be added. Minor events may not use all of the limit;
// see minorShare.
func (j *journal) hasRoom(bytes int, minor bool) bool {
	limit := j.limit
	if minor {
		limit -= limit / minorShare
	}
	return j.others+int64(bytes) <= limit
}

// flush writes the pending records, if there are enough of them or now is true.
func (j *journal) flush(now bool) error {
	if len(j.pending) == 0 || !now && len(j.pending) < flushSize && time.Since(j.flushed) < flushInterval {
		return nil
	}
	if _, err := j.file.WriteAt(j.pending, j.written); err != nil {
		return err
	}
	j.written += int64(len(j.pending))
	j.pending, j.flushed = j.pending[:0], time.Now()
	return nil
}

// before returns the last mark at or before a message.
func (j *journal) before(seq int64) position {
	i := sort.Search(len(j.marks), func(i int) bool { return j.marks[i].messages >= seq })
	if i == 0 {
		return position{}
	}
	return j.marks[i-1]
}

// A record is a record of a journal, parsed.
type record struct {
	kind  byte
	at    int64
	count int64  // how many messages the record is for
	data  []byte // JSON
}

// isLines reports whether the record is for lines.
func (r *record) isLines() bool { return r.kind <= serverLines }

// parseRecord returns the first record of buf and its length. after is the time of the previous record. The
// length is 0 if the record is incomplete, and negative if it is invalid.
func parseRecord(buf []byte, after int64) (r record, length int) {
	if len(buf) == 0 {
		return r, 0
	}
	r = record{kind: buf[0] & kindMask, at: after, count: 1}
	length = 1
	if r.kind > responseRecord {
		return r, -1
	}
	if buf[0]&sameTime == 0 {
		since, n := binary.Varint(buf[length:])
		if n <= 0 {
			return r, n
		}
		r.at += since
		length += n
	}
	if buf[0]&oneLine != 0 {
		return r, length
	}
	number, n := binary.Uvarint(buf[length:])
	if n <= 0 {
		return r, n
	}
	length += n
	if r.isLines() {
		r.count = int64(number)
		return r, length
	}
	if number > maxRecord {
		return r, -1
	}
	if uint64(len(buf)-length) < number {
		return r, 0
	}
	end := length + int(number)
	r.data = buf[length:end:end] // what is appended to it does not change the next record
	return r, end
}

// maxRecord is the largest size of the JSON of one record, in bytes. A line of a derivation's log is the
// longest: it has at most maxLine bytes, and JSON needs up to six bytes for one.
const maxRecord = 8 * maxLine

// next returns the position after a record.
func (p position) next(r *record, length int) position {
	p.offset += int64(length)
	p.messages += r.count
	p.at = r.at
	if r.isLines() {
		p.lines += r.count
	}
	return p
}
