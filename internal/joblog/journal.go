package joblog

import (
	"encoding/binary"
	"os"
	"sort"
	"time"

	"iglu.sh/builder/schemas"
)

// A journal tells, in the order of a job's messages, what the log does not hold: when lines
// came and from which stream, and everything that is not a line. It is a file of records:
// one for each chunk of lines, which says how many of the log's lines it stands for, and one
// for each other message. Numbers of messages and of lines follow from the order.
//
// A record begins with a byte: its kind, perhaps with flags. Then comes, unless flagged as
// not there, the time since the record before in milliseconds, as a varint (it can be
// negative: clocks are set); then the number of lines, unless flagged as one, or the length
// of the JSON and the JSON itself. A record takes one to three bytes for a chunk of lines.
//
// Records are gathered and written in bursts, so that a line costs no second system call.
// Readers get the rest through the index.
type journal struct {
	file    *os.File
	limit   int64 // in bytes, of what is not lines
	written int64 // bytes in the file
	pending []byte
	flushed time.Time // when that was last written
	marks   []place   // in ascending order
	end     place
	others  int64 // bytes of what is not lines
}

// place is a record's beginning, and what the records before it amount to.
type place struct {
	offset   int64 // in the journal
	messages int64
	lines    int64
	at       int64 // the time of the last, in milliseconds since 1970
}

const (
	// flushSize is how many bytes of records are gathered, and flushInterval for how
	// long at most while there is something to append: so much of the times and events
	// of the end is lost if the server is killed.
	flushSize     = 32 << 10
	flushInterval = time.Second
	// journalMarkDistance is markDistance of the journal.
	journalMarkDistance = 64 << 10
	// minorShare is the part of the journal's limit that the lines of derivations
	// leave to the rest.
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
	sameTime = 0x08 // as the record before
	oneLine  = 0x10
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

// hasRoom reports whether an event of so many bytes may be added. The lines of derivations,
// which can be many, leave some to others.
func (j *journal) hasRoom(bytes int, minor bool) bool {
	limit := j.limit
	if minor {
		limit -= limit / minorShare
	}
	return j.others+int64(bytes) <= limit
}

// flush writes the pending records, if they are enough or now.
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
func (j *journal) before(seq int64) place {
	i := sort.Search(len(j.marks), func(i int) bool { return j.marks[i].messages >= seq })
	if i == 0 {
		return place{}
	}
	return j.marks[i-1]
}

// A record is one of a journal, as it is read.
type record struct {
	kind  byte
	at    int64
	count int64  // of the messages that it stands for
	data  []byte // JSON
}

// isLines reports whether the record stands for lines.
func (r *record) isLines() bool { return r.kind <= serverLines }

// parseRecord returns the first record of buf, which comes after one of a time, and its
// length: 0 if it is not all there, and less if it is none.
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
	r.data = buf[length : length+int(number)]
	return r, length + int(number)
}

// maxRecord bounds in bytes the JSON of one record. A line of a derivation's log is the
// longest: it has at most maxLine bytes, and JSON takes up to six for one.
const maxRecord = 8 * maxLine

// next returns the place after a record.
func (p place) next(r *record, length int) place {
	p.offset += int64(length)
	p.messages += r.count
	p.at = r.at
	if r.isLines() {
		p.lines += r.count
	}
	return p
}
