// Package jobwire is how the program in a job's container tells the builder what is not
// output: in its standard output, as records between the bytes that the job's programs
// print there. In standard error there is only the last record of a job.
//
// A record is one write of at most PIPE_BUF bytes, so that on the pipe that all of them
// share it is never torn (pipe(7)). It may stand anywhere, also in the middle of a line. It
// begins with a byte that is rare in text and a marker, and it is sealed and numbered: the seal
// (HMAC, RFC 2104) is made with a key that only the builder and this program know. The builder
// cuts the records out and leaves everything else as it is.
//
// Whoever is root in the container can read from the pipe in the builder's place, and so see
// records and keep them from the builder. Without the key he can neither make one nor change
// one, nor have one count twice.
package jobwire

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"strconv"
	"sync"

	"iglu.sh/builder/schemas"
)

// A Record is what one record, or several in a row, tell. Only what is told is set.
type Record struct {
	Event  json.RawMessage `json:"event,omitempty"`  // of package schemas
	Nix    string          `json:"nix,omitempty"`    // the version of the image's
	Commit string          `json:"commit,omitempty"` // that was fetched
	Usage  *Usage          `json:"usage,omitempty"`
	Pushed *schemas.Pushed `json:"pushed,omitempty"` // what the push has come to
	// NotRun is the job's system, as Nix names it, if the container does not run its programs. The
	// job ends then.
	NotRun string `json:"notRun,omitempty"`
	// End is the last of a job on both outputs, right before the program exits: all that was
	// printed came before.
	End *End `json:"end,omitempty"`
}

// An End is how a job ended.
type End struct {
	ExitCode int `json:"exitCode"` // with which the program is about to exit
	// Terminated is true if the job failed after the container was asked to end, and
	// LifelineLost if it was asked because its builder, or the connection to it, was gone.
	Terminated   bool `json:"terminated,omitempty"`
	LifelineLost bool `json:"lifelineLost,omitempty"`
	// OutOfMemory is true if the job failed and a process of it was killed for want of memory. Of
	// the program itself only the engine can say that; Podman 4.3 says it of none.
	OutOfMemory bool `json:"outOfMemory,omitempty"`
	// Unpushed says what could not be pushed of a build that succeeded, for the job's user.
	Unpushed string `json:"unpushed,omitempty"`
	// Reason says in a line why a job failed with an exit code, and Advice is a sentence on what to
	// do about it; both are for the job's user, and empty if no more is known than the exit code.
	Reason string `json:"reason,omitempty"`
	Advice string `json:"advice,omitempty"`
	// UnusableStore is true if the job ended before anything of it ran because the store that
	// earlier jobs have left is unfit. It can begin again with another.
	UnusableStore bool `json:"unusableStore,omitempty"`
}

// Usage is what a job has taken, all its processes together; 0 is not known.
type Usage struct {
	PeakMemory int64   `json:"peakMemory,omitempty"` // in bytes
	CPUSeconds float64 `json:"cpuSeconds,omitempty"`
	StoreBytes int64   `json:"storeBytes,omitempty"` // of the disk, added to the Nix store
}

const (
	mark = 0x1e // ASCII's record separator
	// atomic is how many bytes a pipe takes as one: Linux's PIPE_BUF.
	atomic = 4096
	// A piece of a note has this byte behind the marker if more of the note follows, or else
	// the other. Then come, in hexadecimal digits, the record's number, which piece of its note
	// it is, its length, and the seal of all that and of the piece itself.
	more, last   = '+', '.'
	numberDigits = 8
	pieceDigits  = 4
	lengthDigits = 4
	macDigits    = 32
	markerDigits = 24

	flagAt       = 1 + markerDigits
	numberAt     = flagAt + 1
	pieceAt      = numberAt + numberDigits
	lengthAt     = pieceAt + pieceDigits
	macAt        = lengthAt + lengthDigits
	headerLength = macAt + macDigits

	// maxNote bounds in bytes what the builder takes as one note.
	maxNote = 2 << 20
)

// A mac makes the seals of records.
type mac struct{ hash hash.Hash }

func newMAC(key string) mac { return mac{hmac.New(sha256.New, []byte(key))} }

// of returns the seal of a record, in hexadecimal digits.
func (s mac) of(header, payload []byte) []byte {
	s.hash.Reset()
	s.hash.Write(header)
	s.hash.Write(payload)
	return hex.AppendEncode(nil, s.hash.Sum(nil)[:macDigits/2])
}

// prefixOf returns what each record begins with whose seals are made with a key.
func prefixOf(key string) []byte {
	marker := newMAC(key).of([]byte("marker"), nil)[:markerDigits]
	return append([]byte{mark}, marker...)
}

// A Writer writes notes. A pipe has but one. Its methods are safe for concurrent use.
type Writer struct {
	prefix []byte

	mu     sync.Mutex
	to     io.Writer
	seal   mac
	number uint32 // of the next record
	buf    []byte
}

// NewWriter returns a Writer to a pipe. Without a key it writes nothing.
func NewWriter(to io.Writer, key string) *Writer {
	if key == "" {
		to = io.Discard
	}
	return &Writer{prefix: prefixOf(key), to: to, seal: newMAC(key)}
}

// Event tells of an event.
func (w *Writer) Event(e schemas.Event) { w.Send(Record{Event: schemas.AppendEvent(nil, e)}) }

// Send tells what is set in a note. Nobody hears it if it cannot be written: the builder is
// gone then.
func (w *Writer) Send(n Record) {
	payload, err := json.Marshal(n)
	if err != nil {
		panic(fmt.Sprintf("jobwire: a note always encodes: %v", err))
	}
	w.mu.Lock() // so that the pieces of a note follow each other
	defer w.mu.Unlock()
	const room = atomic - headerLength
	for n := 0; ; n++ {
		piece, flag := payload, byte(last)
		if len(payload) > room {
			piece, flag = payload[:room], more
		}
		w.write(n, flag, piece)
		payload = payload[len(piece):]
		if flag == last {
			return
		}
	}
}

// write writes the n-th piece of a note.
func (w *Writer) write(n int, flag byte, piece []byte) {
	w.buf = append(append(w.buf[:0], w.prefix...), flag)
	w.buf = fmt.Appendf(w.buf, "%0*x%0*x%0*x", numberDigits, w.number, pieceDigits, n&0xffff, lengthDigits, len(piece))
	w.buf = append(w.buf, w.seal.of(w.buf, piece)...)
	w.buf = append(w.buf, piece...)
	w.to.Write(w.buf)
	w.number++
}

// A Demuxer passes on what is written to it without the records, which go elsewhere. It is for
// one goroutine.
type Demuxer struct {
	prefix []byte
	seal   mac
	to     io.Writer
	note   func(Record)
	held   []byte // the beginning of a record, as far as can be seen
	next   uint64 // the least number that the next record may have
	pieces []byte // of a note, so far
	piece  uint64 // which of its pieces comes next
}

// NewDemuxer returns a Demuxer that writes to to, and calls note for each.
func NewDemuxer(to io.Writer, key string, note func(Record)) *Demuxer {
	return &Demuxer{prefix: prefixOf(key), seal: newMAC(key), to: to, note: note}
}

// Write takes the next bytes. Its error is that of the writer behind it.
func (c *Demuxer) Write(chunk []byte) (int, error) {
	data := chunk
	if len(c.held) > 0 {
		data = append(c.held, chunk...)
		c.held = nil
	}
	begin := 0 // of what is not passed on yet
	for at := 0; ; {
		next := bytes.IndexByte(data[at:], mark)
		if next < 0 {
			return len(chunk), c.pass(data[begin:])
		}
		at += next
		switch length, is := c.record(data[at:]); is {
		case none:
			at++
		case incomplete:
			c.held = bytes.Clone(data[at:])
			return len(chunk), c.pass(data[begin:at])
		case complete:
			if err := c.pass(data[begin:at]); err != nil {
				return 0, err
			}
			c.take(data[at : at+length])
			at += length
			begin = at
		}
	}
}

// What some bytes can be.
type candidate int

const (
	none       candidate = iota // no record
	incomplete                  // a record, as far as can be seen
	complete
)

// record reports whether data begins with a record, and how long that is.
func (c *Demuxer) record(data []byte) (length int, is candidate) {
	known := min(len(data), len(c.prefix))
	if !bytes.Equal(data[:known], c.prefix[:known]) {
		return 0, none
	}
	if len(data) < headerLength {
		return 0, incomplete
	}
	size, ok := number(data[lengthAt:macAt])
	length = headerLength + int(size)
	switch {
	case !ok || length > atomic:
		return 0, none
	case len(data) < length:
		return 0, incomplete
	case !hmac.Equal(data[macAt:headerLength], c.seal.of(data[:macAt], data[headerLength:length])):
		return 0, none
	}
	return length, complete
}

func number(digits []byte) (n uint64, ok bool) {
	n, err := strconv.ParseUint(string(digits), 16, 64)
	return n, err == nil
}

// take takes a record, unless it has come before. What is no note, or not all of one, is of no
// use.
func (c *Demuxer) take(record []byte) {
	num, _ := number(record[numberAt:pieceAt])
	piece, _ := number(record[pieceAt:lengthAt])
	if num < c.next {
		return
	}
	if num > c.next || piece == 0 { // something is missing, or a note begins
		c.pieces, c.piece = nil, 0
	}
	c.next = num + 1
	if piece != c.piece {
		return
	}
	c.pieces, c.piece = append(c.pieces, record[headerLength:]...), c.piece+1
	if record[flagAt] == more && len(c.pieces) <= maxNote {
		return
	}
	var n Record
	if json.Unmarshal(c.pieces, &n) == nil {
		c.note(n)
	}
	c.pieces, c.piece = nil, 0
}

func (c *Demuxer) pass(output []byte) error {
	if len(output) == 0 {
		return nil
	}
	_, err := c.to.Write(output)
	return err
}

// Close passes on what was held back: it is no record, as nothing follows. But what has the
// whole marker is one that the end of the container has torn, and of no use to people.
func (c *Demuxer) Close() error {
	held := c.held
	c.held = nil
	if len(held) >= len(c.prefix) {
		return nil
	}
	return c.pass(held)
}
