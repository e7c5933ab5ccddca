package orchestrator

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fakeengine"
)

// A fixture is a Builder on an engine whose calls a test can make fail; see package fakeengine. It is created in a bubble
// of testing/synctest, so waiting takes no time.
type fixture struct {
	t        *testing.T
	engine   *fakeengine.Engine
	b        *Builder
	options  options
	folder   string // of the jobs' logs
	log      *await.Log
	observed *observed
	records  *keptRecords
}

// newFixture returns a fixture on an engine with recorded answers. The containers run the commands of runCommand.
func newFixture(t *testing.T, recording string, change func(*options)) *fixture {
	t.Helper()
	folder := tempDir(t)
	program := filepath.Join(folder, "iglu-builder")
	if err := os.WriteFile(program, []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, engine: fakeengine.Start(t, recording), folder: filepath.Join(folder, "logs"), log: new(await.Log), observed: new(observed), records: new(keptRecords)}
	f.engine.Run = runCommand
	f.engine.MakeNetwork("bridge", nil)
	f.options = options{
		Options: Options{
			Stores:    stores.Options{Instance: "test", Mode: stores.Shared, MaxBytes: 1 << 40, Folder: filepath.Join(folder, "stores"), Wait: 5 * time.Minute},
			Limits:    Limits{Memory: Amount{Share: 0.75}, CPUs: Amount{Share: 1}, PIDs: 4096},
			Deadlines: Deadlines{Build: buildTimeout},
			Observer:  f.observed,
		},
		engine: docker.Options{
			Host: "unix:///run/docker.sock", Instance: "test", Image: fakeengine.ImageRef, Pull: images.PullMissing,
			Program: program,
			Sandbox: docker.SandboxAuto,
			Dial:    f.engine.Dial,
		},
	}
	if change != nil {
		change(&f.options)
	}
	f.start()
	t.Cleanup(func() {
		if err := f.b.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// options are those of a builder, and of its engine.
type options struct {
	Options
	engine docker.Options
}

// buildTimeout is longer than all bounds of calls.
const buildTimeout = 30 * time.Minute

// tempDir returns a folder for a test, in memory if possible: jobs wait until records are written to the disk, and that
// is slow.
func tempDir(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("/dev/shm", "iglu-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

// start makes the builder, as if it had been started anew.
func (f *fixture) start() {
	f.t.Helper()
	logs, err := joblog.Open(f.folder, joblog.Keep{Jobs: 10}, 1<<20)
	if err != nil {
		f.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	e, err := docker.New(f.options.engine, log)
	if err != nil {
		f.t.Fatal(err)
	}
	f.b = New(e, f.options.Options, logs, f.records, log)
}

// observed is an Observer that remembers which calls have failed, of nodes with their names, and which nodes have gone.
type observed struct {
	nobody
	mu     sync.Mutex
	failed []string
	gone   []string
}

func (o *observed) NodeGone(node string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = append(o.gone, node)
}

func (o *observed) EngineFailed(node, call string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = append(o.failed, strings.TrimSpace(node+" "+call))
}

// take returns what has failed since it was asked last.
func (o *observed) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	failed := o.failed
	o.failed = nil
	return failed
}

// keptRecords are Records in memory.
type keptRecords struct {
	mu  sync.Mutex
	all []history.Record
}

func (r *keptRecords) Put(record history.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, record)
	return nil
}

func (r *keptRecords) Prune(func(string) bool) error { return nil }

// latest returns the job that has begun last.
func (r *keptRecords) latest() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[len(r.all)-1].Job
}

// runCommand is what containers run: the program of the builder, with Nix and git made up.
func runCommand(p *fakeengine.Process) int {
	if task := p.Getenv(jobenv.Maintenance); task != "" {
		fmt.Fprintln(p.Stdout, 1000)
		return 0
	}
	command, arg, _ := strings.Cut(p.Getenv(jobenv.Command), " ")
	switch command {
	case "count":
		code, _ := strconv.Atoi(arg)
		return count(p, code)
	case "fail": // and say why
		return end(p, jobwire.End{ExitCode: 1, Reason: "hello-2.12 failed: " + arg, Advice: "Its own log says more."})
	case "print":
		fmt.Fprintf(p.Stdout, "%s\n\niglu: not the job's\n", arg)
		return end(p, jobwire.End{ExitCode: 3})
	case "yield":
		jobwire.NewWriter(p.Stdout, p.Getenv(jobenv.EventsToken)).Send(jobwire.Record{Event: schemas.AppendEvent(nil, schemas.ResultsEvent{
			Results: []schemas.Result{{Installable: ".#hunter2hunter2", Paths: []string{"/nix/store/a"}}},
			Pushed:  &schemas.Pushed{Paths: 1, Bytes: 2}, Target: "https://example.com/a"})})
		return 0
	case "push":
		return end(p, jobwire.End{ExitCode: jobenv.ExitUnpushed, Unpushed: "1 of 2 paths was not pushed"})
	case "linger": // runs until it is asked to stop
		fmt.Fprintln(p.Stdout, "lingering")
		return linger(p, nil)
	case "stubborn": // ignores the request to stop
		fmt.Fprintln(p.Stdout, "lingering")
		<-p.Killed
		return 0
	case "handler": // handles the request to stop, and ends with its own exit code
		fmt.Fprintln(p.Stdout, "lingering")
		<-p.Terminated
		return end(p, jobwire.End{ExitCode: 7, Terminated: true})
	case "mute": // has printed something, and nothing more
		fmt.Fprintln(p.Stdout, "lingering")
		<-p.Terminated
		return end(p, jobwire.End{ExitCode: 143, Terminated: true})
	case "memory":
		p.RunOutOfMemory()
		if code, _ := strconv.Atoi(arg); code != 0 { // a child of it was killed
			return end(p, jobwire.End{ExitCode: code, OutOfMemory: true})
		}
		return 137
	case "unusable": // once
		if p.Getenv(jobenv.Store) == jobenv.StoreUsed {
			return end(p, jobwire.End{ExitCode: jobenv.ExitUnusableStore, UnusableStore: true})
		}
		return count(p, 3)
	}
	panic("the test sends a command that there is not: " + command)
}

// linger returns 0 at a certain time, or the end of the job if it is ended before.
func linger(p *fakeengine.Process, until <-chan time.Time) int {
	select {
	case <-until:
		return 0
	case <-p.Terminated:
		fmt.Fprintln(p.Stdout, "told to end")
		return end(p, jobwire.End{ExitCode: 143, Terminated: true})
	case <-p.Killed:
	case <-p.Lifeline:
		select {
		case <-time.After(time.Second): // until its own processes have ended
		case <-p.Killed:
		}
	}
	return jobenv.ExitLifelineLost
}

// end writes the record that says how a job has ended. It returns the exit code later, as an engine reports the end of a
// container with a delay.
func end(p *fakeengine.Process, how jobwire.End) int {
	for _, output := range []io.Writer{p.Stdout, p.Stderr} {
		jobwire.NewWriter(output, p.Getenv(jobenv.EventsToken)).Send(jobwire.Record{End: &how})
	}
	select {
	case <-time.After(time.Second / 10):
	case <-p.Killed:
	}
	return how.ExitCode
}

// count prints, and exits with a code.
func count(p *fakeengine.Process, code int) int {
	for i := range 20 {
		fmt.Fprintln(p.Stdout, i+1)
		fmt.Fprintln(p.Stderr, "and", i+1)
	}
	if cut := linger(p, time.After(time.Second/10)); cut != 0 {
		return cut
	}
	return end(p, jobwire.End{ExitCode: code})
}

func requestOf(command string) *schemas.Request {
	return &schemas.Request{Git: schemas.Git{NoClone: true}, BuildOptions: schemas.BuildOptions{Command: command}}
}

// A finished job is its last message, all its lines, and how long it took.
type finished struct {
	response *schemas.Response
	event    schemas.VerdictEvent
	lines    string
	took     time.Duration
}

// A job is a running job.
type job struct {
	lines  chan string // each write of lines
	ended  chan schemas.Message
	begun  time.Time
	so     strings.Builder // what was read of lines
	client string          // its address
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// Write gets a job's lines.
func (j *job) Write(p []byte) (int, error) {
	j.lines <- string(p)
	return len(p), nil
}

// newJob makes a job that has not begun.
func (f *fixture) newJob() *job {
	ctx, cancel := context.WithCancelCause(f.t.Context())
	return &job{ctx: ctx, cancel: cancel, lines: make(chan string, 1000), ended: make(chan schemas.Message, 1), begun: time.Now()}
}

func (f *fixture) begin(j *job, request *schemas.Request) {
	go func() {
		running := f.b.Start(j.ctx, request, j.client, func() {})
		if err := running.Follow(context.WithoutCancel(j.ctx), j); err != nil {
			j.cancel(err)
		}
		last := running.Wait()
		close(j.lines)
		j.ended <- last
	}()
}

// send begins a job.
func (f *fixture) send(request *schemas.Request) *job {
	j := f.newJob()
	f.begin(j, request)
	return j
}

// waitFor waits until a job has printed something.
func (j *job) waitFor(t *testing.T, text string) {
	t.Helper()
	for !strings.Contains(j.so.String(), text) {
		line, ok := <-j.lines
		if !ok {
			t.Fatalf("without %q: %s\n%s", text, j.finish(), j.so.String())
		}
		j.so.WriteString(line)
	}
}

// finish waits for a job's end, but not for what is done afterwards.
func (j *job) finish() finished {
	for line := range j.lines {
		j.so.WriteString(line)
	}
	last := <-j.ended
	j.cancel(nil)
	event, err := schemas.ParseEvent(last.Event)
	if err != nil {
		panic(err)
	}
	return finished{last.Response, event.(schemas.VerdictEvent), j.so.String(), time.Since(j.begun)}
}

// do runs a command to its end, and waits until all is done that is done then.
func (f *fixture) do(command string) finished {
	f.t.Helper()
	end := f.send(requestOf(command)).finish()
	f.b.background.Wait()
	return end
}

// brief is the shortest time that a report contains. A shorter time depends on which of two events was first.
const brief = 2 * time.Second

// String returns all that a client reads about an end, and how long the end took.
func (e finished) String() string {
	text := e.event.End
	if e.event.ExitCode != nil {
		text += fmt.Sprint(" ", *e.event.ExitCode)
	}
	if e.took > brief {
		text += " after " + e.took.Round(time.Second).String()
	}
	said := strings.TrimSpace(e.response.Error + " " + e.response.Msg)
	if e.event.End == string(jobend.Exited) && e.response.Error != "" { // TestReasons is about the rest, in which the job's last line is
		said = e.response.Error
	}
	if said != "" {
		text += ": " + said
	}
	return text
}

// wantExit checks that a job has ended by itself.
func (e finished) wantExit(t *testing.T, code int) {
	t.Helper()
	if e.event.End != string(jobend.Exited) || e.response.BuildExitCode == nil || *e.response.BuildExitCode != code {
		t.Errorf("want exited %d, got %s", code, e)
	}
}

var (
	jobIDs     = regexp.MustCompile(`[a-z2-7]{26}`)
	containers = regexp.MustCompile(`\b0{10,}[0-9a-f]+\b`)
	hashes     = regexp.MustCompile(`-(store|program)-[0-9a-f]+`)
)

// plain returns a text without what is different each time.
func plain(text string) string {
	text = strings.ReplaceAll(text, "iglu-builder-test-", "")
	text = regexp.MustCompile(`iglu-(store|job)-test-[0-9a-z]+`).ReplaceAllString(text, "of-$1")
	text = hashes.ReplaceAllString("-"+text, "-$1")[1:]
	text = regexp.MustCompile(`\b(store|program)-[0-9a-f]{8,}`).ReplaceAllString(text, "$1")
	return containers.ReplaceAllString(jobIDs.ReplaceAllString(text, "JOB"), "CONTAINER")
}

// usual is what is on the engine between jobs.
var usual = []string{"network bridge", "network jobs", "volume program", "volume store"}

// left returns what is on the engine that is not usually there, and what is not that usually is.
func (f *fixture) left() string {
	var odd []string
	there := f.engine.Left()
	for i := range there {
		there[i] = plain(there[i])
		if !slices.Contains(usual, there[i]) {
			odd = append(odd, there[i])
		}
	}
	for _, name := range usual {
		if !slices.Contains(there, name) {
			odd = append(odd, "no "+name)
		}
	}
	return strings.Join(odd, ", ")
}

var _ io.Writer = (*job)(nil)
