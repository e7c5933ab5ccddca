package buildclient

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net/url"
	"sync"
	"time"

	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/internal/tick"
	"iglu.sh/builder/schemas"
)

// plain prints the log's lines to one output, and the builder's other messages and the job's progress to
// another. In a file the lines are unchanged, byte for byte.
type plain struct {
	out      *bufio.Writer
	terminal bool // the output is a terminal that can only scroll
	shown    []byte
	interval time.Duration
	now      func() time.Time
	at       func(schemas.Message) time.Time // the time of a message
	stop     func()                          // ends the reports of progress; nil before the job starts

	mu       sync.Mutex // guards what follows
	errors   io.Writer
	builder  *url.URL
	progress *progress
}

func newPlain(o Options) *plain {
	return &plain{
		out:      bufio.NewWriterSize(o.Stdout, bufferSize),
		errors:   o.Stderr,
		builder:  o.URL,
		terminal: isTerminal(o.Stdout),
		interval: cmp.Or(o.interval, progressInterval),
		now:      o.now,
		at:       o.at,
	}
}

func (p *plain) line(_, text []byte) {
	if p.terminal {
		p.shown = termtext.AppendLine(p.shown[:0], text, false)
		text = p.shown
	}
	p.out.Write(text)
	p.out.WriteByte('\n')
}

func (p *plain) message(_ []byte, m schemas.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Response != nil && m.Response.JobStatus == schemas.Starting {
		p.progress = newProgress(p.at(m))
		p.stop = tick.Every(p.interval, p.reportProgress)
	}
	if m.Event != nil && p.progress != nil {
		p.progress.take(m.Event, p.at(m))
	}
	if m.Last() && p.progress != nil {
		p.reportFailed()
	}
	if r := m.Response; r != nil && r.Error == "" {
		fmt.Fprintln(p.errors, termtext.Visible(r.Msg))
	}
}

// reportFailed prints the commands that show the logs of failed derivations.
func (p *plain) reportFailed() {
	for _, failed := range p.progress.failed {
		if all := logCommand(p.builder, p.progress.job, failed.Derivation); all != "" {
			fmt.Fprintf(p.errors, "iglu-builder: the log of %s: %s\n", nameOf(failed.Derivation), all)
		}
	}
}

// plainNames is how many of the derivations that are being built a progress line has without a terminal.
const plainNames = 3

// reportProgress prints the job's progress.
func (p *plain) reportProgress() {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.errors, "iglu-builder: "+p.progress.describe(plainNames, p.now()))
}

func (p *plain) hasShown(schemas.Message) bool { return false }
func (p *plain) flush() error                  { return printed(p.out.Flush()) }

func (p *plain) end() error {
	if p.stop != nil {
		p.stop()
	}
	return printed(p.out.Flush())
}
