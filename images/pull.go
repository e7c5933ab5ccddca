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

// A pull is one that is under way, for all who wait for it. It has a goroutine of its own,
// which ends with the last of them.
type pull struct {
	cancel  context.CancelFunc
	done    chan struct{} // closed when it has ended
	err     error         // why it failed, once it has ended
	waiting []*waiter     // guarded by the source's lock
}

// waiter is one who waits for a pull.
type waiter struct{ lines chan string }

// pull pulls the image, or waits for the pull that is under way.
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

// waitingLines is how many lines a waiter may be behind before it misses some.
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
			p.err = s.pullNow(pulling, func(line string) { s.tell(p, line) })
			s.mu.Lock()
			defer s.mu.Unlock()
			if pulling.Err() == nil { // it was not given up
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

// leave has one wait no more. A pull that nobody waits for ends.
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

// forget sees to it that nobody joins a pull any more. s.mu is held.
func (s *Source) forget(p *pull) {
	if s.current == p {
		s.current = nil
	}
}

func (s *Source) tell(p *pull, line string) {
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
	auth, err := registryAuth(s.ref)
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

// step is one message of a pull's progress. The engine's own type for it lies in a package
// for terminals.
type step struct {
	ID       string `json:"id"` // of a layer
	Status   string `json:"status"`
	Error    string `json:"error"`
	Progress struct {
		Current int64 `json:"current"` // in bytes
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
}

// readPull reads the progress of a pull, a sequence of JSON objects, to its end. An
// error of the pull comes as one of them, after the call itself has succeeded.
func readPull(body io.Reader, say func(line string)) error {
	progress := newProgress(say)
	for dec := json.NewDecoder(body); ; {
		var step step
		err := dec.Decode(&step)
		switch {
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

// progressInterval is the least time between two lines on a pull.
const progressInterval = time.Second

// progress makes lines for people of a pull's many messages.
type progress struct {
	say    func(line string)
	begun  time.Time
	told   time.Time
	layers map[string]layer
	result string // the engine's last word on the image as a whole
}

// layer is how much of a layer has been downloaded, in bytes.
type layer struct {
	done, total int64
	complete    bool
}

func newProgress(say func(line string)) *progress {
	now := time.Now()
	return &progress{say: say, begun: now, told: now, layers: make(map[string]layer)}
}

func (p *progress) add(s step) {
	switch {
	case s.ID == "" || s.Status == "Pulling from "+s.ID:
		p.result = s.Status
	case s.Status == "Pulling fs layer":
		p.layers[s.ID] = layer{}
	case s.Status == "Downloading" && s.Progress.Total > 0:
		p.layers[s.ID] = layer{s.Progress.Current, s.Progress.Total, false}
	case s.Status == "Download complete" || s.Status == "Already exists":
		l := p.layers[s.ID]
		p.layers[s.ID] = layer{l.total, l.total, true}
	}
	if time.Since(p.told) >= progressInterval {
		p.told = time.Now()
		p.say(p.line())
	}
}

// sum returns that of all layers.
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
