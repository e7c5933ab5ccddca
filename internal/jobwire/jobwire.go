// Package jobwire is how the program in a job's container tells the builder what is not
// output: in its standard output, as records between the bytes that the job's programs
// print there. In standard error there is but the last record of a job.
//
// A record is one write of at most PIPE_BUF bytes, so that on the pipe that all of them
// share it is never torn (pipe(7)). It may stand anywhere, also in the middle of a line. It
// begins with a byte that is rare in text and a random token that only the builder and this
// program know, so that nothing else can be taken for it. The builder cuts the records out
// and leaves everything else as it is.
package jobwire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync"

	"iglu.sh/builder/schemas"
)

// A Note is what one record, or several in a row, tell. Only what is told is set.
type Note struct {
	Event  json.RawMessage `json:"event,omitempty"`  // of package schemas
	Nix    string          `json:"nix,omitempty"`    // the version of the image's
	Commit string          `json:"commit,omitempty"` // that was fetched
	Usage  *Usage          `json:"usage,omitempty"`
	Pushed *schemas.Pushed `json:"pushed,omitempty"` // what the push has come to
	// Succeeded is the last of a job on both outputs, right before the program exits with 0:
	// all that was printed came before.
	Succeeded bool `json:"succeeded,omitempty"`
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
	// A piece of a note has this byte after its token if more of the note follows, or else
	// the other, and then its length.
	more, last   = '+', '.'
	lengthDigits = 4 // hexadecimal
	// maxNote bounds in bytes what the builder takes as one note.
	maxNote = 2 << 20
)

func prefixOf(token string) []byte { return append([]byte{mark}, token...) }

// A Writer writes notes. Its methods are safe for concurrent use.
type Writer struct {
	prefix []byte

	mu  sync.Mutex
	to  io.Writer
	buf []byte
}

// NewWriter returns a Writer to a pipe. Without a token it writes nothing.
func NewWriter(to io.Writer, token string) *Writer {
	if token == "" {
		to = io.Discard
	}
	return &Writer{prefix: prefixOf(token), to: to}
}

// Event tells of an event.
func (w *Writer) Event(e schemas.Event) { w.Note(Note{Event: schemas.AppendEvent(nil, e)}) }

// Note tells what is set in a note. Nobody hears it if it cannot be written: the builder is
// gone then.
func (w *Writer) Note(n Note) {
	payload, err := json.Marshal(n)
	if err != nil {
		panic(fmt.Sprintf("jobwire: a note always encodes: %v", err))
	}
	w.mu.Lock() // so that the pieces of a note follow each other
	defer w.mu.Unlock()
	room := atomic - len(w.prefix) - 1 - lengthDigits
	for {
		piece, flag := payload, byte(last)
		if len(payload) > room {
			piece, flag = payload[:room], more
		}
		w.buf = append(append(w.buf[:0], w.prefix...), flag)
		w.buf = append(fmt.Appendf(w.buf, "%0*x", lengthDigits, len(piece)), piece...)
		w.to.Write(w.buf)
		payload = payload[len(piece):]
		if flag == last {
			return
		}
	}
}

// A Cutter passes on what is written to it without the records, which go elsewhere. It is for
// one goroutine.
type Cutter struct {
	prefix []byte
	to     io.Writer
	note   func(Note)
	held   []byte // the beginning of a record, as far as can be seen
	pieces []byte // of a note
}

// NewCutter returns a Cutter that writes to to, and calls note for each.
func NewCutter(to io.Writer, token string, note func(Note)) *Cutter {
	return &Cutter{prefix: prefixOf(token), to: to, note: note}
}

// Write takes the next bytes. Its error is that of the writer behind it.
func (c *Cutter) Write(chunk []byte) (int, error) {
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

// headerLength is the length of what stands before the payload of a record.
func (c *Cutter) headerLength() int { return len(c.prefix) + 1 + lengthDigits }

// record reports whether data begins with a record, and how long that is.
func (c *Cutter) record(data []byte) (length int, is candidate) {
	known := min(len(data), len(c.prefix))
	if !bytes.Equal(data[:known], c.prefix[:known]) {
		return 0, none
	}
	header := c.headerLength()
	if len(data) < header {
		return 0, incomplete
	}
	flag := data[len(c.prefix)]
	size, err := strconv.ParseUint(string(data[len(c.prefix)+1:header]), 16, 16)
	switch {
	case err != nil || flag != more && flag != last:
		return 0, none
	case len(data) < header+int(size):
		return 0, incomplete
	}
	return header + int(size), complete
}

// take takes a record. What is no note is from a program of another version, and of no use.
func (c *Cutter) take(record []byte) {
	c.pieces = append(c.pieces, record[c.headerLength():]...)
	if record[len(c.prefix)] == more && len(c.pieces) <= maxNote {
		return
	}
	var n Note
	if json.Unmarshal(c.pieces, &n) == nil {
		c.note(n)
	}
	c.pieces = nil
}

func (c *Cutter) pass(output []byte) error {
	if len(output) == 0 {
		return nil
	}
	_, err := c.to.Write(output)
	return err
}

// Close passes on what was held back: it is no record, as nothing follows. But what has the
// whole token is one that the end of the container has torn, and the token is not for showing.
func (c *Cutter) Close() error {
	held := c.held
	c.held = nil
	if len(held) >= len(c.prefix) {
		return nil
	}
	return c.pass(held)
}
