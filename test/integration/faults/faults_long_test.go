//go:build integration && long

package faults

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fixture"
)

// The suite of faults kills each part at each step of a job. Each time, the client must get a correct message,
// the next job must work, and only foreign objects may be left on the engine.

// A step is a moment during a job: just before the n-th call to the engine with a method and path.
type step struct {
	name string
	call *regexp.Regexp
	nth  int
}

func stepAt(name, call string, nth int) step {
	return step{name, regexp.MustCompile("^" + call + "$"), nth}
}

const job3 = "attack count 3"

// prints for a while and exits with 3

// A faultyEngine is a real engine behind a proxy. At a step, the proxy calls a function of the test.
type faultyEngine struct {
	t     *testing.T
	proxy *httputil.ReverseProxy
	front *httptest.Server

	mu   sync.Mutex
	step step // the step at which do is called, if do is set
	seen int  // number of calls that match the step
	do   func(w http.ResponseWriter, r *http.Request) (done bool)
}

func startFaulty(t *testing.T, socket string) *faultyEngine {
	f := &faultyEngine{t: t, proxy: fixture.ProxyTo(t, socket)}
	f.front = httptest.NewServer(f)
	t.Cleanup(f.front.Close)
	return f
}

func (f *faultyEngine) host() string { return "tcp://" + f.front.Listener.Addr().String() }

// at calls do once, at a step. do reports whether it has answered the call. hit is closed when the call is
// made.
func (f *faultyEngine) at(s step, do func(w http.ResponseWriter, r *http.Request) (done bool)) (hit <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	made := make(chan struct{})
	f.step, f.seen = s, 0
	f.do = func(w http.ResponseWriter, r *http.Request) bool { close(made); return do(w, r) }
	return made
}

var apiVersion = regexp.MustCompile(`^/v[0-9.]+`)

func (f *faultyEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := r.Method + " " + apiVersion.ReplaceAllString(r.URL.Path, "")
	f.mu.Lock()
	do := f.do
	if do != nil && f.step.call.MatchString(call) {
		f.seen++
	}
	if do != nil && f.seen == f.step.nth && f.step.call.MatchString(call) {
		f.do = nil
	} else {
		do = nil
	}
	f.mu.Unlock()
	if do == nil || !do(w, r) {
		f.proxy.ServeHTTP(w, r)
	}
}

// A faultFixture is an engine with foreign objects on it.
type faultFixture struct {
	*fixture.OwnEngine
	others []string
}

func startFaultFixture(t *testing.T, e *fixture.Engine) *faultFixture {
	w := &faultFixture{OwnEngine: e.Own(t)}
	fixture.ImportProgram(t, w.Host, "attack:1", fixture.BuildProgram(t, "attack"), "attack")
	w.Docker(t, "volume", "create", "bystander")
	w.Docker(t, "network", "create", "--internal", "bystander-network")
	// Engines start it again after they were killed.
	w.Docker(t, "run", "--detach", "--restart", "always", "--network", "none", "--name", "bystander-container",
		"--label", "sh.iglu.builder.instance=somebody-else", "attack:1", "attack", "serve")
	w.others = w.state(t)
	return w
}

// state returns everything that is on the engine.
func (w *faultFixture) state(t *testing.T) (all []string) {
	t.Helper()
	engine, err := fixture.EngineAt(w.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	containers, err := engine.ContainerList(t.Context(), containertypes.ListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers {
		all = append(all, c.ID+" "+c.State)
	}
	for _, kind := range []string{"volume", "network"} {
		found, err := fixture.Listed(w.Host, kind, "")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	slices.Sort(all) // an engine lists its networks in any order
	return all
}

// wantOthers checks that only foreign objects are on the engine, after a server has stopped and its volumes
// were removed.
func (w *faultFixture) wantOthers(t *testing.T) {
	t.Helper()
	var diff string
	if err := fixture.AwaitEngine(w.Host, 30*time.Second, func() bool { diff = cmp.Diff(w.others, w.state(t)); return diff == "" }); err != nil {
		t.Errorf("on the engine (-before +after): %v\n%s", err, diff)
	}
}

// attackOnly sets a server up for jobs that run the program attack.
func attackOnly(s *server.Settings) {
	s.JobImage, s.AllowedCommands = "attack:1", []string{"attack"}
	s.Store = stores.Shared // so that the store's calls can fail too
}

// clean removes what a server's instance keeps for its next start. No container is left.
func (w *faultFixture) clean(t *testing.T, s *fixture.Server) {
	t.Helper()
	if output := w.cleanUp(t, s); strings.Contains(output, "container") {
		t.Errorf("cleanup: %s", output)
	}
}

// cleanUp removes what a server's instance has left, and returns the output of iglu-builder cleanup.
func (w *faultFixture) cleanUp(t *testing.T, s *fixture.Server) (output string) {
	t.Helper()
	output, err := cleanUpAt(w.Host, s.Instance)
	if err != nil {
		t.Errorf("cleanup: %v: %s", err, output)
	}
	fixture.RemoveAll(w.Host, s.Instance) // its stores
	return output
}

// wantNext waits until the slot is free, and checks that a job works.
func wantNext(t *testing.T, s *fixture.Server) {
	t.Helper()
	fixture.WantExit(t, fixture.DoWhenFree(t, s, fixture.Command(job3), time.Minute), 3)
}

// endOf returns how the first job ended according to the server's log.
func endOf(t *testing.T, s *fixture.Server) string {
	t.Helper()
	var end []string
	if err := s.Log.Await(time.Minute, func(text string) bool { end = endInLog.FindStringSubmatch(text); return end != nil }); err != nil {
		t.Fatalf("the job does not end: %v", err)
	}
	return end[1]
}

var endInLog = regexp.MustCompile(`msg="job ended" .*\bend=(\S+)`)

// A report is the result of the suite: a row for each step, a column for each fault.
type report struct {
	columns []string

	mu    sync.Mutex
	rows  []string
	cells map[[2]string]string
}

// row begins the row of a step.
func (r *report) row(s step) { r.rows = append(r.rows, s.name) }

func (r *report) note(row, column, cell string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cells == nil {
		r.cells = make(map[[2]string]string)
	}
	r.cells[[2]string{row, column}] = cell
}

// table returns the report.
func (r *report) table() string {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\t%s\n", strings.Join(r.columns, "\t"))
	for _, row := range r.rows {
		fmt.Fprint(w, row)
		for _, column := range r.columns {
			fmt.Fprintf(w, "\t%s", r.cells[[2]string{row, column}])
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	return text.String()
}

// steps are the steps of a job at which the suite injects faults.
var steps = []step{
	stepAt("volume filled", "DELETE /containers/.*", 1),
	stepAt("created", "POST /containers/.*/attach", 1),
	stepAt("attached", "POST /containers/.*/wait", 1),
	stepAt("about to start", "POST /containers/.*/start", 1),
	stepAt("in the middle of output", "", 0),
	stepAt("before removal", "DELETE /containers/.*", 2),
}

// TestFaultsOfProcesses kills the server, breaks the client's connection, or kills the engine, at each step.
func TestFaultsOfProcesses(t *testing.T) { fixture.OnEnginesAlone(t, faultsOfProcesses) }

func faultsOfProcesses(t *testing.T, e *fixture.Engine) {
	w := startFaultFixture(t, e)
	r := &report{columns: []string{"server killed", "client cut", "engine killed"}}
	for _, step := range steps {
		r.row(step)
		t.Run("server killed/"+step.name, func(t *testing.T) { r.note(step.name, "server killed", w.killServer(t, step)) })
		t.Run("client cut/"+step.name, func(t *testing.T) { r.note(step.name, "client cut", w.cutClient(t, step)) })
		t.Run("engine killed/"+step.name, func(t *testing.T) { r.note(step.name, "engine killed", w.killEngine(t, step)) })
	}
	t.Logf("how the job ended, with a fault at each step; the next job worked each time:\n%s", r.table())
}

// reach sends a job and calls do at a step of it.
func (f *faultyEngine) reach(t *testing.T, c *fixture.Client, s step, do func()) {
	t.Helper()
	done := make(chan struct{})
	if s.nth > 0 {
		f.at(s, func(http.ResponseWriter, *http.Request) bool { do(); close(done); return false })
	}
	c.Send(fixture.JSONOf(t, fixture.Command(job3)))
	if s.nth == 0 {
		c.WaitFor(`"20"`)
		do()
		return
	}
	await.Receive(t, done, "the job gets to the step "+s.name)
}

func (w *faultFixture) killServer(t *testing.T, at step) string {
	f := startFaulty(t, w.Socket())
	flags := []string{"--job-image", "attack:1", "--allowed-commands", "attack", "--store", "shared"}
	s := fixture.StartProcessAs(t, "test", f.host(), flags...)
	f.reach(t, fixture.Connect(t, s), at, s.Kill)
	next := fixture.StartProcessAs(t, "test", f.host(), flags...)
	wantNext(t, next)
	if err := next.Stop(); err != nil {
		t.Error(err)
	}
	next.Ended <- nil  // for the clean-up
	w.cleanUp(t, next) // a container that was just created may still be there
	w.wantOthers(t)
	return "(started again)"
}

func (w *faultFixture) cutClient(t *testing.T, at step) string {
	f := startFaulty(t, w.Socket())
	s := fixture.ServerVia(t, f.host(), attackOnly)
	idle := s.Idle(t)
	c := fixture.Connect(t, s)
	f.reach(t, c, at, func() { c.Conn.NetConn().Close() })
	return w.after(t, s, idle)
}

func (w *faultFixture) killEngine(t *testing.T, at step) string {
	f := startFaulty(t, w.Socket())
	s := fixture.ServerVia(t, f.host(), attackOnly)
	idle := s.Idle(t)
	c := fixture.Connect(t, s)
	f.reach(t, c, at, func() {
		w.Stop(syscall.SIGKILL)
		w.Start(t)
	})
	wantFailure(t, c.Finish())
	return w.after(t, s, idle)
}

// wantFailure checks that a client got a message, and that it does not report success.
func wantFailure(t *testing.T, r fixture.Result) {
	t.Helper()
	last := r.Messages[len(r.Messages)-1]
	if !strings.Contains(last, `"error":"`) || !strings.Contains(last, `"jobStatus":"failed"`) || r.CloseCode != 1011 {
		t.Errorf("got %v, close code %d", r.Messages, r.CloseCode)
	}
}

// after checks the server after a fault and returns how the job ended.
func (w *faultFixture) after(t *testing.T, s *fixture.Server, idle []string) string {
	t.Helper()
	end := endOf(t, s)
	w.wantNothingLeft(t, s, idle)
	w.wantOthers(t)
	return end
}

// wantNothingLeft checks that the next job works, that the server then has the same goroutines as before the
// first job, and that it has none after it has stopped.
func (w *faultFixture) wantNothingLeft(t *testing.T, s *fixture.Server, idle []string) {
	t.Helper()
	wantNext(t, s)
	w.endIdle(t, s, idle)
}

// endIdle stops a server that has no job.
func (w *faultFixture) endIdle(t *testing.T, s *fixture.Server, idle []string) {
	t.Helper()
	fixture.WantGoroutines(t, s, idle)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	fixture.WantGoroutines(t, s, nil)
	w.clean(t, s)
}
