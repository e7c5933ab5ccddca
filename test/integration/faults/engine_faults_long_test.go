//go:build integration && long

package faults

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fixture"
)

// A call is a call to the engine that a job makes.
type call struct {
	step
	life
}

// A life is a job whose calls to the engine are tested.
type life struct {
	command string
	code    int                                                // the exit code, if the job exits
	change  func(*server.Settings)                             // changes the server's settings; may be nil
	during  func(*testing.T, *fixture.Server, *fixture.Client) // called while the job runs; may be nil
}

// callsOf returns the calls of a job.
func callsOf(l life, steps ...step) (calls []call) {
	for _, s := range steps {
		calls = append(calls, call{s, l})
	}
	return calls
}

// calls are all calls that jobs make. The calls about the machine are made at the server's start.
var calls = slices.Concat(
	callsOf(life{command: job3, code: 3},
		stepAt("ping", "(HEAD|GET) /_ping", 1),
		stepAt("inspect image", "GET /images/.*/json", 1),
		stepAt("inspect store", "GET /volumes/.*-store-.*", 1),
		stepAt("create store", "POST /volumes/create", 1),
		stepAt("list networks", "GET /networks", 1),
		stepAt("create network", "POST /networks/create", 1),
		stepAt("list new network", "GET /networks", 3),
		stepAt("create volume", "POST /volumes/create", 2),
		stepAt("look into volume", "HEAD /containers/.*/archive", 1),
		stepAt("fill volume", "PUT /containers/.*/archive", 1),
		stepAt("attach", "POST /containers/.*/attach", 1),
		stepAt("wait", "POST /containers/.*/wait", 1),
		stepAt("start", "POST /containers/.*/start", 1),
	),
	callsOf(life{command: "attack linger", during: cancelLingering}, stepAt("stop", "POST /containers/.*/stop", 1)),
	callsOf(life{command: job3, code: 3, change: alwaysPull}, stepAt("pull", "POST /images/create", 1)),
)

// unpulled is a name of the image attack for which there is no registry.
const unpulled = "127.0.0.1:9/attack:1"

func alwaysPull(s *server.Settings) { s.Pull, s.JobImage = images.PullAlways, unpulled }

// asRoot runs jobs as root, so that a job can write files that only the builder's program should write.
func asRoot(s *server.Settings) { s.JobUser = orchestrator.UserRoot }

// cancelLingering cancels a job that has begun.
func cancelLingering(t *testing.T, s *fixture.Server, c *fixture.Client) {
	t.Helper()
	c.WaitFor(`"lingering"`)
	if status, body := s.Get(t, http.MethodPost, "/api/v1/jobs/"+fixture.NewestJob(t, s)+"/cancel"); status != http.StatusAccepted {
		t.Errorf("cancel: HTTP %d: %s", status, body)
	}
}

// TestFaultsOfCalls makes every call fail in every way.
func TestFaultsOfCalls(t *testing.T) { fixture.OnEnginesAlone(t, faultsOfCalls) }

func faultsOfCalls(t *testing.T, e *fixture.Engine) {
	w := startFaultFixture(t, e)
	w.Docker(t, "tag", "attack:1", unpulled)
	r := newCallReport(e)
	t.Run("all", func(t *testing.T) {
		for _, call := range calls {
			r.row(call.step)
			for _, fault := range r.columns {
				t.Run(call.name+"/"+fault, func(t *testing.T) {
					t.Parallel()
					r.note(call.name, fault, w.breakCall(t, call, fault))
				})
			}
		}
	})
	w.wantOthers(t)
	t.Logf("how the job ended, with each fault of each call; the next job worked each time:\n%s", r.table())
	r.want(t, e, "faults")
}

// newCallReport returns a report with a column for each fault of a call.
func newCallReport(e *fixture.Engine) *report {
	if e.IsPodman() { // on which each call takes 50 % longer
		return &report{columns: []string{"reset", "500", "cut"}}
	}
	return &report{columns: []string{"stall", "reset", "404", "409", "500", "cut"}}
}

// want compares the report with the one in a file.
func (r *report) want(t *testing.T, e *fixture.Engine, file string) {
	t.Helper()
	name := "testdata/" + file + ".txt"
	if e.IsPodman() {
		name = "testdata/" + file + "-podman.txt"
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(r.table(), "\n")); diff != "" {
		t.Errorf("(-%s +now):\n%s", name, diff)
	}
}

// attackVia starts a server whose jobs run the program attack on an engine. The test stops it.
func (w *faultFixture) attackVia(t *testing.T, f *faultyEngine, needsNetwork bool, change func(*server.Settings)) *fixture.Server {
	t.Helper()
	return fixture.ServerVia(t, f.host(), func(s *server.Settings) {
		attackOnly(s)
		if w.IsPodman() && !needsNetwork { // making the network takes Podman most of its time
			s.JobNetwork = "none"
		}
		if change != nil {
			change(s)
		}
	})
}

func (w *faultFixture) breakCall(t *testing.T, call call, fault string) string {
	f := startFaulty(t, w.Socket())
	s := w.attackVia(t, f, strings.Contains(call.name, "network"), call.change)
	idle := s.Idle(t)
	hit := f.at(call.step, func(out http.ResponseWriter, in *http.Request) bool { return f.spoil(fault, out, in) })
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command(call.command)))
	if call.during != nil {
		call.during(t, s, c)
	}
	got := c.Finish()
	await.Receive(t, hit, "the call is made") // some faults are after the answer
	end := endOf(t, s)
	if end == "exited" {
		fixture.WantExit(t, got, call.code)
	} else {
		wantFailure(t, got)
	}
	w.wantNothingLeft(t, s, idle)
	return end
}

// faultyServer starts a server whose jobs run the program attack, on an engine that a test can make fail.
func faultyServer(t *testing.T, e *fixture.Engine) (*faultyEngine, *fixture.Server) {
	t.Helper()
	image := e.AttackImage(t)
	f := startFaulty(t, e.Socket())
	return f, fixture.ServerWith(t, func(s *server.Settings) {
		s.EngineHost, s.JobImage, s.AllowedCommands = f.host(), image, []string{"attack"}
		asRoot(s)
	})
}

// TestLogCutShort uses an engine that does not send the end of a job's log. The job still succeeds, and its log
// says that something is missing.
func TestLogCutShort(t *testing.T) { fixture.OnEngines(t, logCutShort) }

func logCutShort(t *testing.T, e *fixture.Engine) {
	f, s := faultyServer(t, e)
	f.at(stepAt("attach", "POST /containers/.*/attach", 1), func(w http.ResponseWriter, r *http.Request) bool {
		response, err := f.pass(r)
		if err != nil {
			t.Error(err)
			return false
		}
		t.Cleanup(func() { response.Body.Close() }) // until then the container does not see the end of its standard input
		header, _ := httputil.DumpResponse(response, false)
		cutAttached(w, header, response)
		return true
	})
	got := fixture.Do(t, s, fixture.Command("attack count 0"))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "iglu: the end of the log may be missing: ")
}

// TestRemovedBetweenJobs uses an engine that refuses to remove a job's container, which contains the job's
// secrets. The builder removes it later, without another job.
func TestRemovedBetweenJobs(t *testing.T) { fixture.OnEngines(t, removedBetweenJobs) }

func removedBetweenJobs(t *testing.T, e *fixture.Engine) {
	f, s := faultyServer(t, e)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("attack count 0")), 0)
	hit := f.at(stepAt("remove", "DELETE /containers/.*", 1), func(w http.ResponseWriter, r *http.Request) bool { return f.spoil("500", w, r) })
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("attack count 0")), 0)
	await.Receive(t, hit, "somebody removes the container")
	fixture.WantNoContainers(t, s)
}

// spoil answers a call with a fault. It reports false if it has not answered the call.
func (f *faultyEngine) spoil(fault string, w http.ResponseWriter, r *http.Request) bool {
	switch fault {
	case "stall":
		fixture.Pass(time.Second)
		return false
	case "reset":
		hangUp(w, nil)
	case "cut":
		f.cut(w, r)
	default:
		var status int
		fmt.Sscan(fault, &status)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintln(w, `{"message":"the test says so"}`)
	}
	return true
}

// hangUp writes a text, which may be empty, and resets the connection.
func hangUp(w http.ResponseWriter, text []byte) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	conn.Write(text)
	if len(text) == 0 {
		conn.(*net.TCPConn).SetLinger(0)
	}
	conn.Close()
}

// cut passes the call to the engine and sends a part of the answer: the beginning of a stream, half of a body, or
// the first line of an answer without a body.
func (f *faultyEngine) cut(w http.ResponseWriter, r *http.Request) {
	response, err := f.pass(r)
	if err != nil {
		hangUp(w, nil)
		return
	}
	defer response.Body.Close()
	streams := strings.HasSuffix(r.URL.Path, "/wait") || strings.HasSuffix(r.URL.Path, "/attach")
	text, _ := httputil.DumpResponse(response, !streams)
	if !streams {
		hangUp(w, text[:len(text)/2])
		return
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		cutAttached(w, text, response)
		return
	}
	hangUp(w, text)
}

// pass passes a call to the engine and returns the answer.
func (f *faultyEngine) pass(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", "docker", ""
	return f.proxy.Transport.RoundTrip(out)
}

// cutAttached sends the beginning of a container's output.
func cutAttached(w http.ResponseWriter, header []byte, response *http.Response) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	conn.Write(header)
	piece := make([]byte, 100)
	n, _ := bufio.NewReader(response.Body).Read(piece)
	conn.Write(piece[:max(n-1, 0)]) // in the middle of a frame
}
