package buildclient

import (
	"bufio"
	"io"

	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

// bufferSize is how many bytes of a log are buffered before they are written.
const bufferSize = 64 << 10

// jsonView prints each message on a line: to a file unchanged, to a terminal safely.
type jsonView struct {
	out      *bufio.Writer
	terminal bool
	shown    []byte
}

func newJSONView(out io.Writer) *jsonView {
	return &jsonView{out: bufio.NewWriterSize(out, bufferSize), terminal: isTerminal(out)}
}

func (v *jsonView) line(data, _ []byte) {
	if v.terminal {
		v.shown = termtext.AppendJSON(v.shown[:0], data)
		data = v.shown
	}
	v.out.Write(data)
	v.out.WriteByte('\n')
}

func (v *jsonView) message(data []byte, _ schemas.Message) { v.line(data, nil) }
func (v *jsonView) flush() error                           { return printed(v.out.Flush()) }
func (v *jsonView) end() error                             { return printed(v.out.Flush()) }

// hasShown reports whether the exit code is that of the build, so that no error is needed.
func (v *jsonView) hasShown(last schemas.Message) bool {
	return last.Response != nil && last.Response.BuildExitCode != nil
}
