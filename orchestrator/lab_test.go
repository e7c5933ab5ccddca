package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/memengine"
)

const (
	ownPlatform = "linux/amd64"
	// tooLong is longer than any job takes, in a bubble of testing/synctest. Pings go on there, so a job that waits for
	// ever is no deadlock.
	tooLong = 3 * time.Hour
)

// A lab is a cluster of engines in memory, which a test can disconnect.
type lab struct {
	t *testing.T
	clock
	b        *Builder
	log      *await.Log
	machines map[string]*machine // by their addresses

	mu    sync.Mutex
	found []string // nil: no name server answers
	last  []string // what was found when one answered
}

// A machine is a machine with an engine.
type machine struct {
	*memengine.Engine
	mu       sync.Mutex
	away     bool
	draining bool
	broken   map[string]error // calls that fail, by the names of their methods
}

var errAway = &engine.Failure{End: jobend.EngineGone, Call: "answer", What: "The container engine does not answer.", Advice: "Start it."}

func (m *machine) cut(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

// fail returns why a call of the machine's engine fails, or nil.
func (m *machine) fail(call string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return errAway
	}
	return m.broken[call]
}

// fails makes a call of the machine's engine fail from now on, or succeed again if err is nil.
func (m *machine) fails(call string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = map[string]error{call: err}
}

func (m *machine) drain(draining bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.draining = draining
}

// newLab returns a lab with machines n1, n2 and so on. The address of each is its name, and alias is a second address
// of n1. Three more machines are not found at first: arm and other have other platforms, there is no program for
// other's, and twin is also named n1.
func newLab(t *testing.T, machines int, change ...func(*Options)) *lab {
	l := &lab{t: t, machines: make(map[string]*machine)}
	for i := range machines {
		name := fmt.Sprint("n", i+1)
		m := &machine{Engine: memengine.New(l.run)}
		m.Machine.ID, m.Machine.Name, m.Machine.Platform = "ID-"+name, name, ownPlatform
		m.Fail = m.fail
		l.machines[name] = m
	}
	arm := &machine{Engine: memengine.New(l.run)}
	arm.Machine.ID, arm.Machine.Name, arm.Machine.Platform, arm.Fail = "ID-arm", "arm", "linux/arm64", arm.fail
	other := &machine{Engine: memengine.New(l.run)}
	other.Machine.ID, other.Machine.Platform = "ID-other", "linux/arm64"
	twin := &machine{Engine: memengine.New(l.run)}
	twin.Machine.ID, twin.Machine.Name, twin.Machine.Platform, twin.Fail = "ID-twin", "n1", ownPlatform, twin.fail
	l.machines["arm"], l.machines["other"], l.machines["twin"], l.machines["alias"] = arm, other, twin, l.machines["n1"]
	l.b, l.log, _ = builder(t, nil, append([]func(*Options){func(o *Options) {
		o.MaxJobs, o.MaxQueued = 2, 100
		o.Stores = stores.Options{Instance: "test", Mode: stores.Repository, MaxBytes: 1 << 40, Folder: tempDir(t), Wait: time.Minute}
		o.Cluster = &Cluster{Platform: ownPlatform, Find: l.find, Open: l.open, IsDraining: l.isDraining, Program: program}
	}}, change...)...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.b.Maintain(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	var all []string
	for i := range machines { // one after the other, so that jobs are given to n1 first
		all = append(all, fmt.Sprint("n", i+1))
		l.setFound(all...)
		time.Sleep(2 * findInterval)
	}
	return l
}

func (l *lab) find(context.Context) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.found == nil {
		return slices.Clone(l.last), errors.New("no name server answers")
	}
	l.last = l.found
	return slices.Clone(l.found), nil
}

func (l *lab) setFound(addresses ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found = addresses
}

func (l *lab) open(address string) (engine.Engine, error) {
	m := l.machines[address]
	if m == nil {
		return nil, errors.New("it is no address of a node")
	}
	return m, nil
}

func (l *lab) isDraining(_ context.Context, address string) (bool, error) {
	m := l.machines[address]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return false, errAway
	}
	return m.draining, nil
}

// errNoProgram is why a node cannot be used.
var errNoProgram = errors.New("it runs linux/arm64, and the agent's version is 1.2.2: start an agent of this server's version there, 1.2.3")

// program returns the build ID of a platform's program.
func program(_ context.Context, address, platform string) (string, error) {
	if address == "other" {
		return "", errNoProgram
	}
	return "for " + platform, nil
}

// start starts a job of a repository that takes some time, and returns the channel that gets its end.
func (l *lab) start(repository, takes string) *sent {
	return l.startWith(l.t.Context(), repository, takes)
}

func (l *lab) startWith(ctx context.Context, repository, takes string) *sent {
	request := commandOf(repository + " " + takes)
	request.Git.Repository = repository
	return l.send(ctx, request)
}

func (l *lab) send(ctx context.Context, request *schemas.Request) *sent {
	s := &sent{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.last = l.b.build(ctx, request, &s.log)
	}()
	time.Sleep(100 * time.Millisecond) // until its log is read
	return s
}

type sent struct {
	log  await.Log
	done chan struct{}
	last schemas.Message
}

// node returns the node in the job's log.
func (s *sent) node() string {
	for line := range strings.Lines(s.log.String()) {
		if name, ok := strings.CutPrefix(line, "iglu: on node "); ok {
			return strings.TrimSpace(name)
		}
	}
	return "-"
}

func (s *sent) wantEnd(t *testing.T, want jobend.End) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(tooLong):
		t.Fatalf("it has not ended after %s, want %s:\n%s", tooLong, want, s.log.String())
	}
	if end, _ := endOf(t, s.last); end != string(want) {
		t.Errorf("it has ended as %s, want %s: %+v\n%s", end, want, s.last.Response, s.log.String())
	}
}

func nodesOf(jobs ...*sent) string {
	var names []string
	for _, j := range jobs {
		names = append(names, j.node())
	}
	return strings.Join(names, " ")
}
