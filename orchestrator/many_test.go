package orchestrator

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memengine"
)

// TestMany sends 200 jobs of 20 repositories from 16 clients to two builders of one instance, with eight slots each. One
// of the builders is restarted meanwhile. Clients disconnect, and containers are killed. Every verdict is right, no two
// jobs use a store at once, and nothing is left on the engine.
func TestMany(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { many(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

// A plan is what becomes of a job.
type plan struct {
	code     int           // that its command exits with
	takes    time.Duration // until then
	vanishes time.Duration // after so long its client is gone; 0: it stays
	killed   bool          // something else kills its container after half of its time
}

func planOf(r *rand.Rand) plan {
	p := plan{code: r.IntN(3), takes: time.Duration(1+r.IntN(30_000)) * time.Millisecond}
	switch r.IntN(5) {
	case 0:
		p.vanishes = time.Duration(1+r.IntN(20_000)) * time.Millisecond
	case 1:
		p.killed = true
	}
	return p
}

// A countingEngine is one whose containers note which of them has which store.
type countingEngine struct {
	*memengine.Engine
	t *testing.T

	mu    sync.Mutex
	users map[string]string // jobs, by the stores that they have
	most  int               // jobs at once
	now   int
}

func (e *countingEngine) run(p *memengine.Process) int {
	if p.Getenv(jobenv.Maintenance) != "" {
		return e.maintain(p)
	}
	defer e.use(p)()
	words := strings.Fields(p.Getenv(jobenv.Command))
	takes, _ := time.ParseDuration(words[0])
	code, _ := strconv.Atoi(words[1])
	select {
	case <-time.After(takes):
		if words[2] == "killed" {
			return 137 // without a word
		}
		return ends(p, jobwire.End{ExitCode: code})
	case <-p.Terminated:
		return ends(p, jobwire.End{ExitCode: 143, Terminated: true})
	case <-p.Killed:
	case <-p.Lifeline:
	}
	return jobenv.ExitLifelineLost
}

// use notes that a container has a store, until the function that it returns is called.
func (e *countingEngine) use(p *memengine.Process) func() {
	e.mu.Lock()
	defer e.mu.Unlock()
	store := p.Spec.Store.Name
	if other := e.users[store]; store != "" && other != "" {
		e.t.Errorf("%s and %s have %s at once", other, p.Spec.Name, store)
	}
	e.users[store] = p.Spec.Name
	e.now++
	e.most = max(e.most, e.now)
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.users, store)
		e.now--
	}
}

func (e *countingEngine) maintain(p *memengine.Process) int {
	defer e.use(p)()
	select {
	case <-time.After(time.Second):
		fmt.Fprintln(p.Stdout, 1000)
		return 0
	case <-p.Terminated:
	case <-p.Killed:
	case <-p.Lifeline:
	}
	return 143
}

// A tended builder is a builder whose Maintain runs.
type tended struct {
	*Builder
	stop    func()
	clients sync.WaitGroup // that it has
}

func many(t *testing.T, r *rand.Rand) {
	e := &countingEngine{t: t, users: make(map[string]string)}
	e.Engine = memengine.New(e.run)
	slots := func(o *Options) {
		o.MaxJobs = 8
		o.Stores = stores.Options{Instance: "test", Mode: stores.Repository, MaxBytes: 1 << 40, Folder: tempDir(t), Wait: 10 * time.Second}
	}
	start := func() *tended {
		b, _, _ := builder(t, nil, slots)
		b.use(e)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.Maintain(ctx)
		}()
		return &tended{Builder: b, stop: func() { cancel(); <-done }}
	}
	first, second := start(), start()
	var mu sync.Mutex
	current := first // or what is in its place
	closing, shutdown := context.WithCancelCause(t.Context())
	defer shutdown(nil)

	jobs := make(chan plan)
	var clients sync.WaitGroup
	for n := range 16 {
		clients.Go(func() {
			for p := range jobs {
				mu.Lock()
				b, ctx := second, t.Context()
				if n%2 == 0 {
					b = current
				}
				b.clients.Add(1)
				mu.Unlock()
				if b == first {
					ctx = closing
				}
				send(ctx, t, b.Builder, fmt.Sprint("repository-", p.takes.Milliseconds()%20), p)
				b.clients.Done()
			}
		})
	}
	for n := range 200 {
		jobs <- planOf(r)
		if n == 100 {
			next := start()
			mu.Lock()
			current = next
			mu.Unlock()
			shutdown(jobend.Shutdown)
			first.stop()
			first.clients.Wait()
			first.background.Wait()
		}
	}
	close(jobs)
	clients.Wait()
	time.Sleep(time.Minute)
	current.stop()
	second.stop()
	if got := names(t, e); got != "" {
		t.Errorf("left: %s", got)
	}
	if e.most < 10 {
		t.Errorf("%d jobs have run at once, at most", e.most)
	}
}

// send sends a job, and checks its verdict.
func send(ctx context.Context, t *testing.T, b *Builder, repository string, p plan) {
	var release func()
	for ok := false; !ok; release, ok = b.Acquire() {
		time.Sleep(100 * time.Millisecond)
	}
	defer release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	takes, how := p.takes, "ends"
	if p.killed {
		takes, how = p.takes/2, "killed"
	}
	if p.vanishes > 0 {
		time.AfterFunc(p.vanishes, func() { cancel(jobend.ClientGone) })
	}
	request := &schemas.Request{Git: schemas.Git{Repository: repository}, BuildOptions: schemas.BuildOptions{Command: fmt.Sprint(takes, " ", p.code, " ", how)}}
	last := b.build(ctx, request, io.Discard)
	event, err := schemas.ParseEvent(last.Event)
	if err != nil {
		t.Error(err)
		return
	}
	got := event.(schemas.VerdictEvent)
	want := string(jobend.Exited)
	if p.killed {
		want = string(jobend.Killed)
	}
	switch cause := context.Cause(ctx); {
	case got.End == want && got.ExitCode != nil && (p.killed || *got.ExitCode == p.code):
	case cause == jobend.ClientGone && got.End == string(jobend.ClientGone), cause == jobend.Shutdown && got.End == string(jobend.Shutdown):
	default:
		t.Errorf("%+v has ended as %+v: %s", p, got, last.Response.Msg)
	}
}
