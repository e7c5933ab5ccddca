package jobrun

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"iglu.sh/builder/internal/termtext"
)

const (
	// colorWait is the shortest time that a line waits for its colours; the longest is twice that, if
	// everything in Nix's log has been read. Nix logs a line right after it has printed it, but may be
	// delayed in between.
	colorWait = 200 * time.Millisecond
	// maxColorWait is the longest time that a line waits if there is more in Nix's log to read.
	maxColorWait = 5 * time.Second
	// maxUncolored is how many bytes may wait for their colours.
	maxUncolored = 256 << 10
)

// A colorer adds the colours to the text that Nix prints. Nix prints it without colours, because its
// output is no terminal, but right after that writes the same text with colours to its log for
// programs. So each line waits until it appears in that log, and is then passed on with its colours.
// Only colours are added. A line that does not appear in the log is passed on without colours.
type colorer struct {
	to     io.Writer
	stderr *tee // writes to the colorer

	mu      sync.Mutex
	pending []byte // text that waits for its colours
	within  bool   // pending begins within a line
	written int64  // how many bytes were written to the colorer
	due     int64  // how many of those bytes the timer passes on
	timer   *time.Timer
	since   time.Time // when due was set
	busy    int       // how many logs are being processed, not waited for
	passing sync.Cond // signals that pending has become shorter
	line    []byte    // scratch
	logs    int       // how many processes of Nix have their log open
	ended   bool      // there were logs, and all are closed
}

// newColorer returns a colorer for standard error, or nil if the job wants no colours. A nil colorer can be
// used, and adds no colours.
func (b *builder) newColorer() (*colorer, error) {
	if b.job.Colors == "" {
		return nil, nil
	}
	return newColorer(os.Stderr)
}

func newColorer(to io.Writer) (c *colorer, err error) {
	c = &colorer{to: to}
	c.passing.L = &c.mu
	c.stderr, err = newTee(c)
	return c, err
}

// run runs a command. It keeps the order of its two outputs, so that the results that Nix prints at the end
// remain at the end.
func (c *colorer) run(r runner, argv []string, stdout *os.File) int {
	if c == nil {
		return r.run(argv, sourceDir, stdout, os.Stderr)
	}
	defer c.stderr.close()
	results, err := newTee(follower{follower{stdout, c.flush}, c.stderr.drain})
	if err != nil {
		sayWhy("", "cannot read what the build prints: %v", err)
		return exitInternal
	}
	defer results.close()
	return r.run(argv, sourceDir, results.in, c.stderr.in)
}

// Write processes what the command prints on standard error. It never returns an error: writing fails only
// if the builder has disconnected.
func (c *colorer) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = append(c.pending, b...)
	c.written += int64(len(b))
	switch {
	case c.ended:
		c.pass(len(c.pending))
	case len(c.pending) > maxUncolored:
		c.pass(len(c.pending) - maxUncolored/2)
	}
	if len(c.pending) > 0 && c.timer == nil {
		c.startTimer()
	}
	return len(b), nil
}

// startTimer starts the timer for what is pending now. c.mu is held.
func (c *colorer) startTimer() {
	c.due, c.since = c.written, time.Now()
	c.timer = time.AfterFunc(colorWait, c.overdue)
}

// overdue passes on what has waited long enough.
func (c *colorer) overdue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy > 0 && time.Since(c.since) < maxColorWait {
		c.timer.Reset(colorWait)
		return
	}
	c.timer = nil
	c.pass(int(c.due - c.passed()))
	if len(c.pending) > 0 {
		c.startTimer()
	}
}

// pass passes on the first n pending bytes. c.mu is held.
func (c *colorer) pass(n int) {
	if n > 0 {
		c.to.Write(c.pending[:n])
		c.within = c.pending[n-1] != '\n'
		c.drop(n)
	}
}

// drop removes the first n pending bytes. c.mu is held.
func (c *colorer) drop(n int) {
	c.pending = c.pending[n:]
	c.passing.Broadcast()
}

// show processes text of Nix's log: lines with colours that Nix may have printed without.
func (c *colorer) show(text string) {
	for line := range strings.SplitSeq(text, "\n") {
		if !c.color(line) {
			c.stderr.drain() // Nix may have printed it, but it is still in the pipe
			if !c.color(line) {
				return
			}
		}
	}
}

// color looks for the first pending line with the same text as the given one. It passes on everything before
// that line, and then the line with its colours. It reports whether there is such a line.
func (c *colorer) color(colored string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	begin := 0
	if c.within {
		begin = bytes.IndexByte(c.pending, '\n') + 1
		if begin == 0 {
			return false
		}
	}
	for {
		length := bytes.IndexByte(c.pending[begin:], '\n')
		if length < 0 {
			return false
		}
		end := begin + length
		line, ok := termtext.AppendColored(c.line[:0], c.pending[begin:end], colored)
		c.line = append(line, '\n')
		if ok {
			c.pass(begin)
			c.to.Write(c.line)
			c.drop(length + 1)
			return true
		}
		begin = end + 1
	}
}

// logOpened is called when a process of Nix opens its log, and logClosed when the log has ended. When all logs
// have ended, nothing waits any more.
func (c *colorer) logOpened() { c.addLogs(1) }
func (c *colorer) logClosed() { c.addLogs(-1) }

func (c *colorer) addLogs(more int) {
	if c == nil {
		return
	}
	c.stderr.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logs += more
	c.busy += more
	c.ended = c.logs == 0
	if c.ended {
		c.pass(len(c.pending))
	}
}

// logReader returns a reader for the log r of a process of Nix. By it, the colorer knows whether there is more
// to read.
func (c *colorer) logReader(r io.Reader) io.Reader {
	if c == nil {
		return r
	}
	return logReader{r, c}
}

// A logReader reads a log. While it waits in Read, everything that it read before has been processed.
type logReader struct {
	io.Reader
	c *colorer
}

func (l logReader) Read(b []byte) (int, error) {
	l.c.addBusy(-1)
	defer l.c.addBusy(1)
	return l.Reader.Read(b)
}

func (c *colorer) addBusy(more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy += more
}

// flush returns when everything written so far has been passed on.
func (c *colorer) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for so := c.written; c.passed() < so; {
		c.passing.Wait()
	}
}

// passed returns how many bytes have been passed on, not counting colours. c.mu is held.
func (c *colorer) passed() int64 { return c.written - int64(len(c.pending)) }

// close passes on what is pending. The command has ended, and all logs are read.
func (c *colorer) close() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.pass(len(c.pending))
}
