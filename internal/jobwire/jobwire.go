// Package jobwire is the protocol by which the program in a job's container reports to the builder:
// events, usage, and how the job ended. Its records are sent on standard output, between the bytes
// that the job's programs print there. On standard error only the last record of a job is sent.
//
// A record is written as one or more frames. A frame is one write of at most PIPE_BUF bytes, so it
// arrives in one piece, although all programs of the job write to the same pipe (pipe(7)). It may
// begin anywhere, also in the middle of a line. It begins with a byte that is rare in text and a
// marker, and it has a number and a MAC (HMAC, RFC 2104), whose key only the builder and this
// program know. The builder removes the frames from the output, and changes nothing else.
//
// Root in the container can read from the pipe before the builder does, and so can see frames and
// withhold them from the builder. Without the key, root can neither forge nor change nor repeat one.
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

// A Record is one report to the builder. Only the fields that it reports are set.
type Record struct {
	Event  json.RawMessage `json:"event,omitempty"`  // of package schemas
	Nix    string          `json:"nix,omitempty"`    // the version of the image's Nix
	Commit string          `json:"commit,omitempty"` // the commit that was fetched
	Usage  *Usage          `json:"usage,omitempty"`
	Pushed *schemas.Pushed `json:"pushed,omitempty"` // the result of the push
	// NotRun is the job's system, in Nix's spelling, if the container cannot run programs of that
	// system. The job ends then.
	NotRun string `json:"notRun,omitempty"`
	// End is the job's last report, sent on both outputs right before the program exits. All other
	// output precedes it.
	End *End `json:"end,omitempty"`
}

// An End is how a job ended.
type End struct {
	ExitCode int `json:"exitCode"` // the program is about to exit with it
	// Terminated is true if the job failed after the container was asked to end.
	// LifelineLost is true if the job ended because the connection to its builder was lost.
	Terminated   bool `json:"terminated,omitempty"`
	LifelineLost bool `json:"lifelineLost,omitempty"`
	// OutOfMemory is true if the job failed and the kernel killed one of its processes because
	// memory ran out. If that was this program, only the engine can report it; Podman 4.3 never does.
	OutOfMemory bool `json:"outOfMemory,omitempty"`
	// Unpushed tells the job's user what could not be pushed, if the build itself succeeded.
	Unpushed string `json:"unpushed,omitempty"`
	// Reason is a line that says why the job failed, and Advice a sentence that says what to do
	// about it. Both are for the job's user, and empty if only the exit code is known.
	Reason string `json:"reason,omitempty"`
	Advice string `json:"advice,omitempty"`
	// UnusableStore is true if the job ended before it ran anything, because the store of earlier
	// jobs is damaged or may not be used for this job. The job can be started again with another store.
	UnusableStore bool `json:"unusableStore,omitempty"`
}

// Usage is what all processes of a job have used together. A field is 0 if that is not known.
type Usage struct {
	PeakMemory int64   `json:"peakMemory,omitempty"` // in bytes
	CPUSeconds float64 `json:"cpuSeconds,omitempty"`
	StoreBytes int64   `json:"storeBytes,omitempty"` // how much the Nix store has grown, in bytes on the disk
}

const (
	mark = 0x1e // ASCII's record separator
	// atomic is how many bytes can be written to a pipe in one piece: Linux's PIPE_BUF.
	atomic = 4096
	// After a frame's marker there is a byte: more if further frames of the same record follow,
	// else last. Then follow, in hexadecimal digits, the frame's number, the number of its piece of
	// the record, the length of that piece, and the MAC of all that and of the piece.
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

	// maxRecord is the length of the longest record that the builder accepts, in bytes.
	maxRecord = 2 << 20
)

// A mac computes the MACs of frames.
type mac struct{ hash hash.Hash }

func newMAC(key string) mac { return mac{hmac.New(sha256.New, []byte(key))} }

// of returns the MAC of a frame, in hexadecimal digits.
func (s mac) of(header, payload []byte) []byte {
	s.hash.Reset()
	s.hash.Write(header)
	s.hash.Write(payload)
	return hex.AppendEncode(nil, s.hash.Sum(nil)[:macDigits/2])
}

// prefixOf returns the bytes with which each frame begins that uses this key.
func prefixOf(key string) []byte {
	marker := newMAC(key).of([]byte("marker"), nil)[:markerDigits]
	return append([]byte{mark}, marker...)
}

// A Writer writes records to a pipe. There must be only one for each pipe. Its methods are safe for
// concurrent use.
type Writer struct {
	prefix []byte

	mu     sync.Mutex
	to     io.Writer
	mac    mac
	number uint32 // of the next frame
	buf    []byte
}

// NewWriter returns a Writer to a pipe. If key is empty, it writes nothing.
func NewWriter(to io.Writer, key string) *Writer {
	if key == "" {
		to = io.Discard
	}
	return &Writer{prefix: prefixOf(key), to: to, mac: newMAC(key)}
}

// Event sends an event.
func (w *Writer) Event(e schemas.Event) { w.Send(Record{Event: schemas.AppendEvent(nil, e)}) }

// Send sends a record. An error in writing is ignored: the builder has disconnected then.
func (w *Writer) Send(n Record) {
	payload, err := json.Marshal(n)
	if err != nil {
		panic(fmt.Sprintf("jobwire: a record always encodes: %v", err))
	}
	w.mu.Lock() // so that the frames of a record follow each other
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

// write writes a frame with the n-th piece of a record.
func (w *Writer) write(n int, flag byte, piece []byte) {
	w.buf = append(append(w.buf[:0], w.prefix...), flag)
	w.buf = fmt.Appendf(w.buf, "%0*x%0*x%0*x", numberDigits, w.number, pieceDigits, n&0xffff, lengthDigits, len(piece))
	w.buf = append(w.buf, w.mac.of(w.buf, piece)...)
	w.buf = append(w.buf, piece...)
	w.to.Write(w.buf)
	w.number++
}

// A Demuxer separates the records from the output. Not safe for concurrent use.
type Demuxer struct {
	prefix []byte
	mac    mac
	to     io.Writer
	record func(Record)
	held   []byte // what may be the beginning of a frame
	next   uint64 // the lowest number that the next frame may have
	pieces []byte // the record so far
	piece  uint64 // the number of its next piece
}

// NewDemuxer returns a Demuxer that writes the output to to, and calls record with each record.
func NewDemuxer(to io.Writer, key string, record func(Record)) *Demuxer {
	return &Demuxer{prefix: prefixOf(key), mac: newMAC(key), to: to, record: record}
}

// Write processes the next bytes. It returns an error only if the output cannot be written.
func (c *Demuxer) Write(chunk []byte) (int, error) {
	data := chunk
	if len(c.held) > 0 {
		data = append(c.held, chunk...)
		c.held = nil
	}
	begin := 0 // data up to here has been passed on
	for at := 0; ; {
		next := bytes.IndexByte(data[at:], mark)
		if next < 0 {
			return len(chunk), c.pass(data[begin:])
		}
		at += next
		switch length, is := c.frame(data[at:]); is {
		case none:
			at++
		case incomplete:
			c.held = bytes.Clone(data[at:])
			return len(chunk), c.pass(data[begin:at])
		case complete:
			if err := c.pass(data[begin:at]); err != nil {
				return 0, err
			}
			c.accept(data[at : at+length])
			at += length
			begin = at
		}
	}
}

// A candidate says whether some bytes are a frame.
type candidate int

const (
	none       candidate = iota // no frame
	incomplete                  // perhaps the beginning of a frame
	complete
)

// frame reports whether data begins with a frame, and the length of that.
func (c *Demuxer) frame(data []byte) (length int, is candidate) {
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
	case !hmac.Equal(data[macAt:headerLength], c.mac.of(data[:macAt], data[headerLength:length])):
		return 0, none
	}
	return length, complete
}

func number(digits []byte) (n uint64, ok bool) {
	n, err := strconv.ParseUint(string(digits), 16, 64)
	return n, err == nil
}

// accept processes a frame, unless it is a repeated one. A record that is invalid or not complete is
// dropped.
func (c *Demuxer) accept(frame []byte) {
	num, _ := number(frame[numberAt:pieceAt])
	piece, _ := number(frame[pieceAt:lengthAt])
	if num < c.next {
		return
	}
	if num > c.next || piece == 0 { // a frame is missing, or a record begins
		c.pieces, c.piece = nil, 0
	}
	c.next = num + 1
	if piece != c.piece {
		return
	}
	c.pieces, c.piece = append(c.pieces, frame[headerLength:]...), c.piece+1
	if frame[flagAt] == more && len(c.pieces) <= maxRecord {
		return
	}
	var n Record
	if json.Unmarshal(c.pieces, &n) == nil {
		c.record(n)
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

// Close passes on what was held back: no more bytes follow, so it is not a frame. If it has the
// whole marker, it is dropped instead: it is a frame that was cut off when the container ended.
func (c *Demuxer) Close() error {
	held := c.held
	c.held = nil
	if len(held) >= len(c.prefix) {
		return nil
	}
	return c.pass(held)
}
