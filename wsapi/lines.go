package wsapi

import (
	"bytes"
	"fmt"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// flushSize is how many bytes of frames are gathered before they are written. The last frame may exceed it.
const flushSize = 256 << 10

// lineWriter sends each line that is written to it as a message. It is for one goroutine.
type lineWriter struct {
	out    *sender
	framer framer
	frames []byte
	line   []byte
	lines  schemas.Lines // encodes the lines of the frames that are gathered
	add    func([]byte) []byte
}

func newLineWriter(out *sender) *lineWriter {
	w := &lineWriter{out: out}
	w.add = func(dst []byte) []byte { return w.lines.Append(dst, w.line) }
	return w
}

func (w *lineWriter) Write(lines []byte) (int, error) {
	for rest := lines; len(rest) > 0; {
		w.frames, w.lines = w.frames[:0], w.out.format.Lines(time.Now())
		for len(rest) > 0 && len(w.frames) < flushSize {
			w.line, rest, _ = bytes.Cut(rest, newline)
			w.frames = w.framer.append(w.frames, websocket.TextMessage, w.add)
		}
		if err := w.out.write(w.frames); err != nil {
			return 0, fmt.Errorf("%w: %w", jobend.ClientGone, err)
		}
	}
	return len(lines), nil
}

var newline = []byte{'\n'}
