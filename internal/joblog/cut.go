package joblog

import (
	"bytes"
	"fmt"

	"iglu.sh/builder/schemas"
)

const (
	// keptTail is how many bytes are kept from the end of a log that is cut.
	keptTail = 64 << 10
	// cutReserve is how many bytes a log keeps free below its limit: for its end, and for the two lines
	// that report what is missing.
	cutReserve = keptTail + 512
)

// cut keeps the last lines of a log that has reached its limit, while the job continues.
type cut struct {
	tail    []byte  // the last whole lines of the log
	pieces  []piece // what tail consists of
	leftOut int64   // bytes between the end of the file and tail
}

// beginCut writes the lines that fit, and a line that says that the log is cut there. index.mu is held.
func (l *Log) beginCut(lines []byte, p piece) {
	fits := bytes.LastIndexByte(lines[:max(0, l.limit-l.index.size)], '\n') + 1
	notice := fmt.Sprintf("iglu: the log is cut here, at its limit of %d bytes; the job goes on, and the log's last lines follow when it ends\n",
		l.limit+cutReserve)
	l.write(append(bytes.Clone(lines[:fits]), notice...),
		piece{p.stream, p.at, fits}, piece{schemas.Server, p.at, len(notice)})
	l.cut = &cut{}
	l.cut.add(lines[fits:], piece{p.stream, p.at, len(lines) - fits})
}

// endCut writes the last lines of a log that is cut. index.mu is held.
func (l *Log) endCut() {
	if l.cut == nil || l.index.failed != nil {
		return
	}
	tail, pieces := l.cut.end()
	l.write(tail, pieces...)
	l.cut = nil
}

// add adds lines. At most twice keptTail and the longest chunk of lines are in memory.
func (c *cut) add(lines []byte, p piece) {
	c.tail = append(c.tail, lines...)
	c.pieces = append(c.pieces, p)
	if len(c.tail) > 2*keptTail {
		c.trim()
	}
}

// trim shortens tail to keptTail bytes. It removes whole lines, or the beginning of a line that is longer
// than keptTail.
func (c *cut) trim() {
	over := len(c.tail) - keptTail
	if over <= 0 {
		return
	}
	if begin := bytes.IndexByte(c.tail[over-1:len(c.tail)-1], '\n'); begin >= 0 {
		over += begin
	} else {
		over += runeStart(c.tail[over:])
	}
	c.leftOut += int64(over)
	c.tail = append(c.tail[:0], c.tail[over:]...)
	for over >= c.pieces[0].size { // over is less than all of them together
		over -= c.pieces[0].size
		c.pieces = c.pieces[1:]
	}
	c.pieces[0].size -= over
}

// end returns the last lines of the log, after a line that says how many bytes are missing.
func (c *cut) end() ([]byte, []piece) {
	c.trim()
	if c.leftOut == 0 {
		return c.tail, c.pieces
	}
	notice := fmt.Appendf(nil, "iglu: %d bytes of the log are left out here\n", c.leftOut)
	first := piece{schemas.Server, c.pieces[0].at, len(notice)}
	return append(notice, c.tail...), append([]piece{first}, c.pieces...)
}
