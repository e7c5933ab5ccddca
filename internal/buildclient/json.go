package buildclient

import (
	"bufio"
	"io"

	"iglu.sh/builder/schemas"
)

// bufferSize is how much of a log is gathered before it is written.
const bufferSize = 64 << 10

// jsonView prints the messages as they are, each in a line.
type jsonView struct{ out *bufio.Writer }

func newJSONView(out io.Writer) *jsonView { return &jsonView{bufio.NewWriterSize(out, bufferSize)} }

func (v *jsonView) line(data, _ []byte) {
	v.out.Write(data)
	v.out.WriteByte('\n')
}

func (v *jsonView) message(data []byte, _ schemas.Message) { v.line(data, nil) }
func (v *jsonView) flush() error                           { return printed(v.out.Flush()) }
func (v *jsonView) end() error                             { return printed(v.out.Flush()) }

// hasShown reports whether the exit code will say how the job ended.
func (v *jsonView) hasShown(last schemas.Message) bool {
	return last.Response != nil && last.Response.BuildExitCode != nil
}
