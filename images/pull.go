package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/go-units"
)

// A pull is a pull in progress, shared by all that wait for it. It has its own goroutine. When nobody waits for
// the pull any more, it is cancelled.
type pull struct {
	cancel  context.CancelFunc
	done    chan struct{} // closed when it has ended
	err     error         // why it failed, once it has ended
	waiting []*waiter     // guarded by the source's lock
}

// waiter is a call of Source.pull that waits for a pull.
type waiter struct{ lines chan string }

// pull pulls the image, or waits for the pull in progress.
func (s *Source) pull(ctx context.Context, say func(string)) error {
	p, w := s.join(ctx)
	defer s.leave(p, w)
	for {
		select {
		case line := <-w.lines:
			say(line)
		case <-p.done:
			for len(w.lines) > 0 {
				say(<-w.lines)
			}
			return p.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// waitingLines is how many unread lines a waiter may have. Further lines are dropped.
const waitingLines = 16

func (s *Source) join(ctx context.Context) (*pull, *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		pulling, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p := &pull{cancel: cancel, done: make(chan struct{})}
		s.current = p
		go func() {
			defer close(p.done)
			p.err = s.pullNow(pulling, func(line string) { s.broadcast(p, line) })
			s.mu.Lock()
			defer s.mu.Unlock()
			if pulling.Err() == nil { // it was not cancelled
				s.failed = p.err
			}
			s.forget(p)
		}()
	}
	w := &waiter{make(chan string, waitingLines)}
	w.lines <- "pulling " + s.ref
	s.current.waiting = append(s.current.waiting, w)
	return s.current, w
}

// leave removes a waiter. It cancels the pull if that was the last waiter.
func (s *Source) leave(p *pull, w *waiter) {
	s.mu.Lock()
	p.waiting = slices.DeleteFunc(p.waiting, func(other *waiter) bool { return other == w })
	last := len(p.waiting) == 0
	if last {
		s.forget(p)
	}
	s.mu.Unlock()
	if last {
		p.cancel()
		<-p.done
	}
}

// forget makes later calls start a new pull instead of waiting for p. s.mu is held.
func (s *Source) forget(p *pull) {
	if s.current == p {
		s.current = nil
	}
}

// broadcast sends a line to all that wait for a pull.
func (s *Source) broadcast(p *pull, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range p.waiting {
		select {
		case w.lines <- line:
		default:
		}
	}
}

func (s *Source) pullNow(ctx context.Context, say func(line string)) error {
	auth, err := s.registryAuth(ctx)
	if err != nil {
		return err
	}
	body, err := s.engine.ImagePull(ctx, s.ref, image.PullOptions{RegistryAuth: auth})
	if err != nil {
		return err
	}
	defer body.Close()
	return readPull(body, say)
}

// step is one message of a pull's progress. The engine's own type for it is in a package for terminals.
type step struct {
	ID       string `json:"id"` // of a layer
	Status   string `json:"status"`
	Error    string `json:"error"`
	Progress struct {
		Current int64 `json:"current"` // in bytes
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
}

const (
	// maxStep is how many bytes of a pull's progress are read for one message.
	maxStep = 256 << 10
	// maxLayers is how many layers of an image are in its progress. Docker's images have up to 127.
	maxLayers = 256
)

// readPull reads the progress of a pull to its end. It is a sequence of JSON objects. An error of the pull is one
// of these objects; the call itself has succeeded before.
func readPull(body io.Reader, say func(line string)) error {
	progress := newProgress(say)
	limited := &io.LimitedReader{R: body}
	for dec := json.NewDecoder(limited); ; {
		var step step
		limited.N = maxStep
		err := dec.Decode(&step)
		switch {
		case err != nil && limited.N == 0:
			return fmt.Errorf("read the pull's progress: a message has more than %s", units.BytesSize(maxStep))
		case errors.Is(err, io.EOF):
			progress.end()
			return nil
		case err != nil:
			return fmt.Errorf("read the pull's progress: %w", err)
		case step.Error != "":
			return errors.New(step.Error)
		}
		progress.add(step)
	}
}

// progressInterval is the shortest time between two lines about a pull.
const progressInterval = time.Second

// progress turns a pull's many messages into a few lines for people.
type progress struct {
	say      func(line string)
	begun    time.Time
	reported time.Time // when the last line was written
	layers   map[string]layer
	result   string // the last status of the image as a whole
}

// layer is how much of a layer has been downloaded, in bytes.
type layer struct {
	done, total int64
	complete    bool
}

func newProgress(say func(line string)) *progress {
	now := time.Now()
	return &progress{say: say, begun: now, reported: now, layers: make(map[string]layer)}
}

func (p *progress) add(s step) {
	_, isKnown := p.layers[s.ID]
	switch {
	case s.ID == "" || s.Status == "Pulling from "+s.ID:
		p.result = s.Status
	case !isKnown && len(p.layers) == maxLayers:
	case s.Status == "Pulling fs layer":
		p.layers[s.ID] = layer{}
	case s.Status == "Downloading" && s.Progress.Total > 0:
		p.layers[s.ID] = layer{s.Progress.Current, s.Progress.Total, false}
	case s.Status == "Download complete" || s.Status == "Already exists":
		l := p.layers[s.ID]
		p.layers[s.ID] = layer{l.total, l.total, true}
	}
	if time.Since(p.reported) >= progressInterval {
		p.reported = time.Now()
		p.say(p.line())
	}
}

// sum returns the sum of all layers.
func (p *progress) sum() layer {
	sum := layer{complete: true}
	for _, l := range p.layers {
		sum.done += l.done
		sum.total += l.total
		sum.complete = sum.complete && l.complete
	}
	return sum
}

func (p *progress) line() string {
	sum := p.sum()
	switch {
	case sum.complete:
		return "unpacking the image"
	case sum.total == 0:
		return "waiting for the image"
	}
	return fmt.Sprintf("pulled %s of %s (%d %%)", units.BytesSize(float64(sum.done)), units.BytesSize(float64(sum.total)), 100*sum.done/sum.total)
}

func (p *progress) end() {
	p.say(fmt.Sprintf("pulled %s in %s: %s", units.BytesSize(float64(p.sum().total)), time.Since(p.begun).Round(100*time.Millisecond), p.result))
}
