//go:build integration && long

package swarm

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/lab"
)

// counts is a script that prints numbers until goOn is called.
const counts = "echo begun; n=0; while [ ! -e /tmp/go-on ]; do n=$((n+1)); echo $n; sleep 0.05; done; echo last $n; exit 3"

// A job is a job that has begun.
type job struct {
	*fixture.Client
	s      *stack
	node   *lab.Node
	placed time.Time             // when its client learned the node
	end    <-chan fixture.Result // the result of a job that counts
}

// count sends a job that counts, waits until it has begun, and reads its messages in the background.
func (s *stack) count() *job { s.t.Helper(); return s.countOn(s.Server) }

// countOn is count for one of several servers.
func (s *stack) countOn(server *fixture.Server) *job {
	s.t.Helper()
	j := s.begin(server, fixture.Command("sh -c '"+counts+"'"))
	j.end = j.InBackground()
	return j
}

// begin sends a job, and waits until it has printed "begun". The caller must continue to read soon, because the server
// drops a client that does not read.
func (s *stack) begin(server *fixture.Server, request fixture.Job) *job {
	s.t.Helper()
	j := &job{Client: fixture.Connect(s.t, server), s: s}
	j.Send(fixture.JSONOf(s.t, request))
	j.awaitBegun()
	return j
}

// awaitBegun reads until the job has printed "begun", and sets its node.
func (j *job) awaitBegun() {
	j.s.t.Helper()
	for message := ""; !strings.Contains(message, `"begun"`); {
		message = j.Next()
		if _, name, ok := strings.Cut(message, "iglu: on node "); ok {
			j.node, j.placed = j.s.nodeNamed(strings.Split(name, `"`)[0]), time.Now()
		}
	}
}

func (s *stack) nodeNamed(name string) *lab.Node {
	for _, n := range s.lab.Nodes {
		if n.Name == name {
			return n
		}
	}
	s.t.Fatalf("no node is called %q", name)
	return nil
}

// build is begin for a command in a repository.
func (s *stack) build(url, command string) *job {
	s.t.Helper()
	return s.begin(s.Server, fixture.Build(url, command))
}

// repository makes a repository, and returns its URL for jobs.
func (s *stack) repository() string {
	s.t.Helper()
	name := "swarm-" + strings.ToLower(rand.Text()[:10])
	if err := fixture.Env.Git.Commit(name, "main", map[string]string{"file": name}); err != nil {
		s.t.Fatal(err)
	}
	return env.url + "/" + name
}

// oneOnEach starts a job that counts on each node. No other jobs may run. The first is on n1, the node of the manager
// and, until a test moves it, of the server.
func (s *stack) oneOnEach() []*job {
	s.t.Helper()
	jobs := make([]*job, len(s.lab.Nodes))
	for range jobs {
		j := s.count()
		jobs[slices.Index(s.lab.Nodes, j.node)] = j
	}
	for i, j := range jobs {
		if j == nil {
			s.t.Fatalf("%s has no job, and another node has two", s.lab.Nodes[i].Name)
		}
	}
	return jobs
}

// wantJobOnEach checks that each node accepts a job, and that it succeeds.
func (s *stack) wantJobOnEach() {
	s.t.Helper()
	for _, j := range s.oneOnEach() {
		j.goOn()
		j.wantAllLines()
	}
}

// goOn ends the jobs on the node that count.
func (j *job) goOn() {
	for _, id := range j.s.jobsOn(j.node) {
		j.node.Docker("exec", id, "touch", "/tmp/go-on") // may fail, because a job that does not wait may have ended
	}
}

// result waits for the job's end.
func (j *job) result() fixture.Result {
	j.s.t.Helper()
	return await.Receive(j.s.t, j.end, "the job on "+j.node.Name+" ends")
}

// wantLost waits for the end of a job that is lost with its node.
func (j *job) wantLost() {
	j.s.t.Helper()
	got := j.result()
	if n := len(got.Messages); n == 0 || !strings.Contains(got.Messages[n-1], `"error"`) || got.CloseCode != 1011 {
		j.s.t.Errorf("the client of the lost job got %q, close code %d", got.Messages, got.CloseCode)
	}
	fixture.WantEnd(j.s.t, j.s.Server, "engine-gone")
}

// wantAllLines waits for the end of a job that counts, and checks that each of its lines has arrived, once and in order.
func (j *job) wantAllLines() {
	j.s.t.Helper()
	got := j.result()
	fixture.WantLast(j.s.t, got, 3)
	n := 0
	for _, line := range got.Lines {
		switch {
		case line == fmt.Sprint(n+1):
			n++
		case line == fmt.Sprint("last ", n):
			return
		case !strings.HasPrefix(line, "iglu: "):
			j.s.t.Errorf("got after line %d: %q", n, line)
			return
		}
	}
	j.s.t.Errorf("%d lines have arrived, but not the last", n)
}
