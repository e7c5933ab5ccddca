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

// plain prints the log's lines to one output and what the builder says beside them to
// another, with a word now and then on how far the job is. To a file the lines go byte for
// byte.
type plain struct {
	out      *bufio.Writer
	terminal bool // the output is a terminal that can only scroll
	shown    []byte
	interval time.Duration
	now      func() time.Time
	stop     func() // ends the words on how far the job is; nil before there are any

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
		interval: cmp.Or(o.ProgressInterval, progressInterval),
		now:      o.now,
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
		p.progress = newProgress(p.now())
		p.stop = tick.Every(p.interval, p.tell)
	}
	if m.Event != nil && p.progress != nil {
		p.progress.take(m.Event, p.now())
	}
	if m.Last() && p.progress != nil {
		p.tellFailed()
	}
	if r := m.Response; r != nil && r.Error == "" {
		fmt.Fprintln(p.errors, termtext.Visible(r.Msg))
	}
}

// tellFailed says where the logs are of derivations that failed.
func (p *plain) tellFailed() {
	for _, failed := range p.progress.failed {
		if all := logCommand(p.builder, p.progress.job, failed.Derivation); all != "" {
			fmt.Fprintf(p.errors, "iglu-builder: the log of %s: %s\n", nameOf(failed.Derivation), all)
		}
	}
}

// tell says how far the job is.
func (p *plain) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.errors, "iglu-builder: "+p.progress.describe(p.now()))
}

func (p *plain) hasShown(schemas.Message) bool { return false }
func (p *plain) flush() error                  { return printed(p.out.Flush()) }

func (p *plain) end() error {
	if p.stop != nil {
		p.stop()
	}
	return printed(p.out.Flush())
}
