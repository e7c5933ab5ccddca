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
	// colorWait is how long a line waits at least for its colours, and at most twice as long where all
	// that Nix has told is taken. Nix tells of a line right after it has printed it, but may be held
	// up in between.
	colorWait = 200 * time.Millisecond
	// maxColorWait is likewise for how long where more is told than is taken at once.
	maxColorWait = 5 * time.Second
	// maxUncolored is how many bytes wait at most.
	maxUncolored = 256 << 10
)

// A colorer gives what Nix prints for people its colours back. Nix leaves them out, because it has no
// terminal, but not of what it tells programs right after. So each line waits until Nix has told
// of it, and goes on with the colours of that. All but the colours is as Nix has printed it: a line that
// nothing is told of goes on as it is.
type colorer struct {
	to   io.Writer
	said *tee // which writes to the colorer

	mu      sync.Mutex
	waits   []byte // for its colours
	within  bool   // waits begins within a line
	written int64  // bytes to the colorer,
	due     int64  // and up to which of them the timer lets go of them
	timer   *time.Timer
	since   time.Time // when due was set
	busy    int       // processes of Nix of which more is told than is taken
	gone    sync.Cond // something that has waited
	line    []byte    // scratch
	heard   int       // how many processes of Nix tell something
	ended   bool      // some have told something, and now none does
}

// newColorer returns one for standard error, or nil if the job wants no colours. A nil colorer runs a command
// as it is.
func (b *builder) newColorer() (*colorer, error) {
	if b.job.Colors == "" {
		return nil, nil
	}
	return newColorer(os.Stderr)
}

func newColorer(to io.Writer) (c *colorer, err error) {
	c = &colorer{to: to}
	c.gone.L = &c.mu
	c.said, err = newTee(c)
	return c, err
}

// run runs a command. What it prints on standard output comes after what it has printed on standard error
// before, so that the results that Nix prints last come last.
func (c *colorer) run(r runner, argv []string, stdout *os.File) int {
	if c == nil {
		return r.run(argv, sourceDir, stdout, os.Stderr)
	}
	defer c.said.close()
	results, err := newTee(follower{settled{stdout, c}, c.said})
	if err != nil {
		sayWhy("", "cannot read what the build prints: %v", err)
		return exitInternal
	}
	defer results.close()
	return r.run(argv, sourceDir, results.in, c.said.in)
}

// Write takes what is printed. It never fails: if nothing can be passed on, the builder is gone.
func (c *colorer) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waits = append(c.waits, b...)
	c.written += int64(len(b))
	switch {
	case c.ended:
		c.pass(len(c.waits))
	case len(c.waits) > maxUncolored:
		c.pass(len(c.waits) - maxUncolored/2)
	}
	if len(c.waits) > 0 && c.timer == nil {
		c.await()
	}
	return len(b), nil
}

// await sets the timer for what waits now. c.mu is held.
func (c *colorer) await() {
	c.due, c.since = c.written, time.Now()
	c.timer = time.AfterFunc(colorWait, c.overdue)
}

// overdue passes on what has waited for long enough.
func (c *colorer) overdue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy > 0 && time.Since(c.since) < maxColorWait {
		c.timer.Reset(colorWait)
		return
	}
	c.timer = nil
	c.pass(int(c.due - c.passed()))
	if len(c.waits) > 0 {
		c.await()
	}
}

// pass passes on the first n bytes that wait. c.mu is held.
func (c *colorer) pass(n int) {
	if n > 0 {
		c.to.Write(c.waits[:n])
		c.within = c.waits[n-1] != '\n'
		c.drop(n)
	}
}

// drop forgets the first n bytes that wait. c.mu is held.
func (c *colorer) drop(n int) {
	c.waits = c.waits[n:]
	c.gone.Broadcast()
}

// show takes what Nix tells: lines that it may have printed, with their colours.
func (c *colorer) show(text string) {
	for line := range strings.SplitSeq(text, "\n") {
		if !c.color(line) {
			c.said.drain() // it may be printed and not written yet
			if !c.color(line) {
				return
			}
		}
	}
}

// color passes on the first line that waits and is the given one without colours, with them, after all
// that came before it. It reports whether there is one.
func (c *colorer) color(colored string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	begin := 0
	if c.within {
		begin = bytes.IndexByte(c.waits, '\n') + 1
		if begin == 0 {
			return false
		}
	}
	for {
		length := bytes.IndexByte(c.waits[begin:], '\n')
		if length < 0 {
			return false
		}
		end := begin + length
		line, ok := termtext.AppendColored(c.line[:0], c.waits[begin:end], colored)
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

// listens says that a process of Nix begins to tell something, and stops that one has ended that. When all
// have, nothing waits any more. Without a colorer they do nothing.
func (c *colorer) listens() { c.listen(1) }
func (c *colorer) stops()   { c.listen(-1) }

func (c *colorer) listen(more int) {
	if c == nil {
		return
	}
	c.said.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard += more
	c.busy += more
	c.ended = c.heard == 0
	if c.ended {
		c.pass(len(c.waits))
	}
}

// hearing returns what reads a process of Nix for a colorer, which then knows whether all that is told is
// taken. Without one it is r itself.
func (c *colorer) hearing(r io.Reader) io.Reader {
	if c == nil {
		return r
	}
	return heard{r, c}
}

// A heard is read when all that was read before is taken.
type heard struct {
	io.Reader
	by *colorer
}

func (h heard) Read(b []byte) (int, error) {
	h.by.isBusy(-1)
	defer h.by.isBusy(1)
	return h.Reader.Read(b)
}

func (c *colorer) isBusy(more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy += more
}

// settle returns when nothing of what is written so far waits.
func (c *colorer) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for so := c.written; c.passed() < so; {
		c.gone.Wait()
	}
}

// passed returns how many bytes have gone on, without colours. c.mu is held.
func (c *colorer) passed() int64 { return c.written - int64(len(c.waits)) }

// close passes on what waits. The command has ended, and all that Nix has told is taken.
func (c *colorer) close() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.pass(len(c.waits))
}

// A settled writes what comes after all that waits for its colours.
type settled struct {
	io.Writer
	before *colorer
}

func (s settled) Write(b []byte) (int, error) {
	s.before.settle()
	return s.Writer.Write(b)
}
