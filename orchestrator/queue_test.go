package orchestrator

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memengine"
)

// A clock runs jobs that take the time in their command, and records their order.
type clock struct {
	mu       sync.Mutex
	begun    []string            // commands
	runs     map[string]int      // how many of each run now
	env      map[string][]string // of the last container of each
	atOnce   []string            // those that ran twice at once
	outlives time.Duration       // how long a container goes on without its builder
}

func (c *clock) run(p *memengine.Process) int {
	command := p.Getenv(jobenv.Command)
	c.mu.Lock()
	c.begun = append(c.begun, command)
	if c.runs == nil {
		c.runs, c.env = make(map[string]int), make(map[string][]string)
	}
	c.env[command] = p.Spec.Env
	if c.runs[command]++; c.runs[command] > 1 {
		c.atOnce = append(c.atOnce, command)
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.runs[command]--
	}()
	_, duration, _ := strings.Cut(command, " ")
	takes, _ := time.ParseDuration(duration)
	select {
	case <-time.After(takes):
		return ends(p, jobwire.End{})
	case <-p.Terminated:
		return ends(p, jobwire.End{ExitCode: engine.ExitTerminated, Terminated: true})
	case <-p.Killed:
	case <-p.Lifeline:
		select {
		case <-time.After(c.outlives):
		case <-p.Killed:
		}
	}
	return jobenv.ExitLifelineLost
}

func commandOf(command string) *schemas.Request {
	return &schemas.Request{BuildOptions: schemas.BuildOptions{Command: command}}
}

// endOf returns how a job ended, and whether it had a waiting phase.
func endOf(t *testing.T, last schemas.Message) (end string, waited bool) {
	t.Helper()
	event, err := schemas.ParseEvent(last.Event)
	if err != nil {
		t.Fatal(err)
	}
	verdict := event.(schemas.VerdictEvent)
	return verdict.End, len(verdict.Phases) > 0 && verdict.Phases[0].Phase == schemas.Wait
}

// TestQueue sends jobs from 50 clients to two slots, with a queue of 48. All run in the order in which they were sent, and
// get their positions. Two clients cancel: their jobs leave nothing on the engine, and have a record.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(clock)
		b, _, _ := builder(t, c.run, func(o *Options) { o.MaxJobs, o.MaxQueued = 2, 48 })
		logs, lasts := make([]bytes.Buffer, 50), make([]schemas.Message, 50)
		var clients sync.WaitGroup
		cancels := make(map[int]context.CancelCauseFunc)
		for n := range 50 {
			release, ok := b.Acquire()
			if !ok {
				t.Fatalf("client %d finds no place", n)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			cancels[n] = cancel
			clients.Go(func() {
				defer release()
				lasts[n] = b.build(ctx, commandOf(fmt.Sprintf("%d 1m", n)), &logs[n])
			})
			time.Sleep(time.Second)
		}
		if _, ok := b.Acquire(); ok {
			t.Error("a 51st client finds a place")
		}
		if running, waiting := b.Load(); running != 2 || waiting != 48 {
			t.Errorf("%d jobs run and %d wait", running, waiting)
		}
		if r := record(t, b, 10); !r.Waits() {
			t.Errorf("the record of one that waits: %+v", r)
		}
		cancels[10](jobend.ClientGone)
		cancels[20](jobend.Cancelled)
		clients.Wait()

		var want []string
		for n := range 50 {
			if n != 10 && n != 20 {
				want = append(want, fmt.Sprintf("%d 1m", n))
			}
		}
		if got := strings.Join(c.begun, ", "); got != strings.Join(want, ", ") {
			t.Errorf("jobs began in the order %s", got)
		}
		for n, last := range lasts {
			wantEnd := string(jobend.Exited)
			switch n {
			case 10:
				wantEnd = string(jobend.ClientGone)
			case 20:
				wantEnd = string(jobend.Cancelled)
			}
			end, waited := endOf(t, last)
			if r := record(t, b, n); end != wantEnd || waited != (n > 1) || string(r.End) != end || r.Started.IsZero() != (n == 10 || n == 20) {
				t.Errorf("job %d has ended as %s, waited: %t, and its record says %+v", n, end, waited, r)
			}
		}
		const places = "iglu: waiting for a free slot, 2 jobs ahead\niglu: waiting for a free slot, 1 job ahead\niglu: waiting for a free slot, no job ahead\n"
		if log := logs[4].String(); !strings.Contains(log, places) {
			t.Errorf("the fifth client got %s", log)
		}
		for n := range 2 {
			if log := logs[n].String(); strings.Contains(log, "waiting") {
				t.Errorf("a client that did not wait got %s", log)
			}
		}
	})
}

// record returns the latest record of the job whose command begins with a number.
func record(t *testing.T, b *Builder, n int) history.Record {
	t.Helper()
	records := b.records.(*keptRecords)
	records.mu.Lock()
	defer records.mu.Unlock()
	for _, r := range slices.Backward(records.all) {
		if strings.HasPrefix(r.Command, fmt.Sprintf("%d ", n)) {
			return r
		}
	}
	t.Fatalf("job %d has no record", n)
	return history.Record{}
}

// TestSubmit submits detached jobs: one runs to its end, one is cancelled while it runs, one while it waits, and a fourth
// is refused until the first has ended.
func TestSubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(clock)
		b, _, _ := builder(t, c.run, func(o *Options) { o.MaxJobs, o.MaxQueued = 2, 1 })
		ids := make([]string, 3)
		for n := range ids {
			id, refusal := b.Submit(commandOf(fmt.Sprintf("%d 1m", n)), "")
			if refusal != nil || record(t, b, n).Job != id {
				t.Fatalf("job %d: %s, %v", n, id, refusal)
			}
			ids[n] = id
			time.Sleep(time.Second)
		}
		if _, refusal := b.Submit(commandOf("3 1m"), ""); refusal == nil || *refusal != schemas.Busy() {
			t.Errorf("a fourth job gets %v", refusal)
		}
		if !b.Cancel(ids[2]) || !b.Cancel(ids[1]) {
			t.Error("they cannot be cancelled")
		}
		time.Sleep(time.Minute)
		for n, want := range []jobend.End{jobend.Exited, jobend.Cancelled, jobend.Cancelled} {
			if r := record(t, b, n); r.End != want {
				t.Errorf("job %d has ended as %s, want %s", n, r.End, want)
			}
		}
		if got := strings.Join(c.begun, ", "); got != "0 1m, 1 1m" {
			t.Errorf("began: %s", got)
		}
		for n := range 3 {
			if _, refusal := b.Submit(commandOf(fmt.Sprintf("%d 1s", 10+n)), ""); refusal != nil {
				t.Errorf("after their end, job %d gets %v", n, refusal)
			}
		}
	})
}

// TestSubmitFollowed follows a job that was submitted: its slot is free when its last message is written.
func TestSubmitFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, new(clock).run)
		for n := range 20 {
			id, refusal := b.Submit(commandOf(fmt.Sprintf("%d 1s", n)), "")
			if refusal != nil {
				t.Fatalf("job %d: %v", n, refusal)
			}
			reader, err := b.logs.Reader(id)
			if err != nil {
				t.Fatal(err)
			}
			if err := reader.FollowMessages(t.Context(), 1, func([]schemas.Message) error { return nil }); err != nil {
				t.Error(err)
			}
			reader.Close()
		}
	})
}

// TestSubmitWithoutLog submits a job whose log cannot be created: the job is refused with the reason, and uses no slot.
func TestSubmitWithoutLog(t *testing.T) {
	b, _, folder := builder(t, nil) // no job runs
	if err := errors.Join(os.RemoveAll(folder), os.WriteFile(folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, refusal := b.Submit(commandOf("1 1s"), ""); refusal == nil || refusal.Error != "The builder cannot keep the job's log." {
			t.Errorf("it gets %v", refusal)
		}
	}
}

// TestDrainQueue checks that waiting jobs run during a drain, as long as there is time.
func TestDrainQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, new(clock).run, func(o *Options) { o.MaxQueued, o.DrainQueue = 4, true })
		submit := func(all ...string) {
			for n, takes := range all {
				if _, refusal := b.Submit(commandOf(fmt.Sprintf("%d %s", n, takes)), ""); refusal != nil {
					t.Fatal(refusal)
				}
			}
			synctest.Wait()
		}
		drain := func(want time.Duration, ends ...jobend.End) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			begun := time.Now()
			b.Drain(ctx)
			if took := time.Since(begun); took != want {
				t.Errorf("it took %s, want %s", took, want)
			}
			for n, want := range ends {
				if r := record(t, b, n); r.End != want {
					t.Errorf("job %d has ended as %s, want %s", n, r.End, want)
				}
			}
		}
		submit("10s", "20s", "10s")
		drain(40*time.Second, jobend.Exited, jobend.Exited, jobend.Exited)
		submit("10s", "2m", "1s")
		drain(time.Minute, jobend.Exited, jobend.Shutdown, jobend.Shutdown)
	})
}

// TestDrain drains a builder while one job ends in time, one does not, and two wait. It checks each verdict.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, new(clock).run, func(o *Options) { o.MaxJobs, o.MaxQueued = 2, 4 })
		for n, takes := range []string{"10s", "1h", "1s", "1s"} {
			if _, refusal := b.Submit(commandOf(fmt.Sprintf("%d %s", n, takes)), ""); refusal != nil {
				t.Fatal(refusal)
			}
		}
		synctest.Wait()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		b.Drain(ctx)
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("it took %s", took)
		}
		if _, refusal := b.Submit(commandOf("4 1s"), ""); refusal != nil {
			t.Fatal(refusal)
		}
		synctest.Wait()
		for n, want := range []jobend.End{jobend.Exited, jobend.Shutdown, jobend.Shutdown, jobend.Shutdown, jobend.Shutdown} {
			r := record(t, b, n)
			if r.End != want || r.Started.IsZero() != (n > 1) {
				t.Errorf("job %d: %+v, want %s", n, r, want)
			}
			if waited := r.Ended.Sub(begun); n == 2 && waited != 0 {
				t.Errorf("job %d waited for its verdict for %s", n, waited)
			}
		}
	})
}

// TestQueueAtRandom sends 300 jobs of ten repositories at random times. No job waits while a slot is free, and no job with
// a slot waits for a store that nobody uses.
func TestQueueAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots = 4
		r := rand.New(rand.NewPCG(1, 0))
		e := &countingEngine{t: t, users: make(map[string]string)}
		e.Engine = memengine.New(e.run)
		b, _, _ := builder(t, nil, func(o *Options) {
			o.MaxJobs, o.MaxQueued = slots, 300
			o.Stores = stores.Options{Instance: "test", Mode: stores.Repository, MaxBytes: 1 << 40, Folder: tempDir(t), Wait: time.Hour}
		})
		b.use(e)
		records := &unended{byJob: make(map[string]history.Record)}
		b.records = records
		for n := range 300 {
			time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
			request := commandOf(fmt.Sprintf("%dms 0 ends", r.IntN(3000)))
			request.Git.Repository = fmt.Sprint("repository-", r.IntN(10))
			id, refusal := b.Submit(request, "")
			if refusal != nil {
				t.Fatal(refusal)
			}
			synctest.Wait()
			running, waiting := b.Load()
			if waiting > 0 && running < slots {
				t.Fatalf("after job %d: %d jobs wait while %d run", n, waiting, running)
			}
			started, repositories := records.started()
			if got := e.inUse(); started != running || got != repositories {
				t.Fatalf("after job %d: %d jobs of %d repositories have slots, %d as the records say, and %d containers run", n, running, repositories, started, got)
			}
			if r.IntN(5) == 0 {
				time.AfterFunc(time.Duration(r.IntN(5000))*time.Millisecond, func() { b.Cancel(id) })
			}
		}
		time.Sleep(time.Hour)
		if running, waiting := b.Load(); running+waiting > 0 {
			t.Errorf("at the end %d jobs run and %d wait", running, waiting)
		}
	})
}

// inUse returns how many containers run.
func (e *countingEngine) inUse() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

// unended are the records of jobs that have not ended.
type unended struct {
	mu    sync.Mutex
	byJob map[string]history.Record
}

func (u *unended) Put(r history.Record) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byJob[r.Job] = r; !r.Runs() {
		delete(u.byJob, r.Job)
	}
	return nil
}

func (u *unended) Prune(func(string) bool) error { return nil }

// started returns how many jobs have slots, and of how many repositories they are.
func (u *unended) started() (jobs, repositories int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := make(map[string]bool)
	for _, r := range u.byJob {
		if !r.Waits() {
			jobs++
			seen[r.Repository] = true
		}
	}
	return jobs, len(seen)
}

// TestDrainAtStart drains a builder while a job is being started: the job is waited for, and cancelled when the time is
// over.
func TestDrainAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, new(clock).run)
		slow := &slowRecords{Records: b.records, takes: time.Second}
		b.records = slow
		started := make(chan struct{})
		go func() {
			defer close(started)
			b.Submit(commandOf("0 1h"), "")
		}()
		synctest.Wait()
		slow.takes = 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		b.Drain(ctx)
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("it took %s", took)
		}
		<-started
	})
}

// slowRecords are Records on a slow disk.
type slowRecords struct {
	Records
	takes time.Duration
}

func (r *slowRecords) Put(record history.Record) error {
	time.Sleep(r.takes)
	return r.Records.Put(record)
}

// TestPlaceOfEndedJob has a client that reads nothing of its log. Its place is free when its job has ended.
func TestPlaceOfEndedJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, new(clock).run)
		release, ok := b.Acquire()
		if !ok {
			t.Fatal("no slot is free")
		}
		j := b.Start(t.Context(), commandOf("a 1m"), "", release)
		read, unread := io.Pipe()
		followed := make(chan error)
		go func() { followed <- j.Follow(context.Background(), unread) }()
		time.Sleep(time.Minute - 1)
		if _, ok := b.Acquire(); ok {
			t.Error("there is a place while the job runs")
		}
		time.Sleep(time.Minute)
		release, ok = b.Acquire()
		if !ok {
			t.Error("there is no place after the job's end")
		}
		release()
		go io.Copy(io.Discard, read)
		if err := <-followed; err != nil {
			t.Error(err)
		}
		unread.Close()
		j.Wait()
	})
}

// TestMemoryOfWaitingJobs has jobs with large keys wait. Masking such a key takes 5 MiB, which only jobs that run need.
func TestMemoryOfWaitingJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const jobs = 20
		b, _, _ := builder(t, new(clock).run, func(o *Options) { o.MaxQueued = jobs })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var clients sync.WaitGroup
		heap := func() int64 {
			var stats runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&stats)
			return int64(stats.HeapAlloc)
		}
		start := func() {
			request := commandOf("a 1h")
			for range 120 {
				request.Git.GitKey += crand.Text() + crand.Text() + "\n"
			}
			clients.Go(func() { b.build(ctx, request, io.Discard) })
			synctest.Wait()
		}
		start()
		before := heap()
		for range jobs {
			start()
		}
		if running, waiting := b.Load(); running != 1 || waiting != jobs {
			t.Errorf("%d jobs run and %d wait", running, waiting)
		}
		if each := (heap() - before) / jobs; each > 1<<20 {
			t.Errorf("a job that waits takes %d KiB", each>>10)
		}
		cancel()
		clients.Wait()
	})
}
