package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memengine"
)

const ownPlatform = "linux/amd64"

// A lab is a cluster of engines in memory, which a test can disconnect.
type lab struct {
	t *testing.T
	clock
	b        *Builder
	log      *lockedBuffer
	machines map[string]*machine // by their addresses

	mu    sync.Mutex
	found []string
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
		return nil, errors.New("no name server answers")
	}
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
	log  lockedBuffer
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
	<-s.done
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

// TestCluster sends 30 jobs of three repositories to three nodes with two slots each. Jobs of a repository run on the
// node of its first job while that has a free slot, and no more than six run at once. No slot is free while a job
// waits that has stopped waiting for its home.
func TestCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		if err := l.b.Healthy(t.Context()); err != nil {
			t.Error(err)
		}
		var jobs []*sent
		for n := range 30 {
			jobs = append(jobs, l.start(fmt.Sprint("repository-", n%3), "1m"))
			if running, _ := l.b.Load(); running != min(n+1, 6) {
				t.Errorf("%d jobs run after %d have come", running, n+1)
			}
		}
		if got := nodesOf(jobs[:6]...); got != "n1 n2 n3 n1 n2 n3" {
			t.Errorf("the first six run on %s", got)
		}
		for _, j := range jobs {
			j.wantEnd(t, jobend.Exited)
			time.Sleep(nodes.HomeTimeout + time.Second)
			synctest.Wait() // others may end at the same time
			if running, waiting := l.b.Load(); running > 6 || waiting > 0 && running < 6 {
				t.Errorf("%d jobs run and %d wait", running, waiting)
			}
		}
		for name, m := range l.machines {
			if left := names(t, m); left != "" {
				t.Errorf("left on %s: %s", name, left)
			}
		}
	})
}

// TestNodeLost disconnects a node for 8 s, which has no effect, and then for longer. Then the clients of its jobs get
// an error within 20 s, and jobs on other nodes continue. When the node is back, it is cleaned and used again.
func TestNodeLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		one, two := l.start("a", "5m"), l.start("b", "5m")
		if got := nodesOf(one, two); got != "n1 n2" {
			t.Fatalf("they run on %s", got)
		}
		lost := l.machines["n1"]
		lost.cut(true)
		time.Sleep(8 * time.Second)
		lost.cut(false)
		time.Sleep(20 * time.Second)
		lost.cut(true)
		begun := time.Now()
		one.wantEnd(t, jobend.EngineGone)
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("its client got the result after %s", took)
		}
		if r := one.last.Response; r.Error != "The node n1 is gone, and the job with it." {
			t.Errorf("its client got %q", r.Error)
		}
		three := l.start("a", "1s")
		three.wantEnd(t, jobend.Exited)
		if got := three.node(); got != "n2" {
			t.Errorf("while n1 is gone, the next job of its repository runs on %s", got)
		}
		lost.cut(false)
		time.Sleep(time.Minute)
		if left := names(t, lost); left != "" {
			t.Errorf("left on n1: %s", left)
		}
		four, five := l.start("c", "1s"), l.start("d", "1s")
		four.wantEnd(t, jobend.Exited)
		five.wantEnd(t, jobend.Exited)
		if got := nodesOf(four, five); got != "n1 n1" {
			t.Errorf("with n1 back, which has no job, jobs run on %s", got)
		}
		two.wantEnd(t, jobend.Exited)
	})
}

// TestNodeDrains asks the agents of nodes to stop. Their running jobs continue, and new jobs run on other nodes, even
// those whose home is a draining node, until a new agent answers there.
func TestNodeDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		n1, n2 := l.machines["n1"], l.machines["n2"]
		long := l.start("a", "5m")
		n1.drain(true)
		time.Sleep(pingInterval)
		two, three := l.start("a", "1m"), l.start("b", "1m")
		if got := nodesOf(long, two, three); got != "n1 n2 n2" {
			t.Errorf("while n1 drains, they run on %s", got)
		}
		four := l.start("a", "1m")
		n2.drain(true)
		two.wantEnd(t, jobend.Exited)
		three.wantEnd(t, jobend.Exited)
		if got := four.node(); got != "-" {
			t.Errorf("while all drain, one runs on %s", got)
		}
		if err := l.b.Healthy(t.Context()); err != nil {
			t.Errorf("while all drain, the builder is not healthy: %v", err)
		}
		const allDrain = "On no node can a job run. n1: Its agent was asked to stop. n2: Its agent was asked to stop."
		if err := l.b.Ready(t.Context()); err == nil || err.Error() != allDrain {
			t.Errorf("while all drain, the builder is ready, or says something else: %v", err)
		}
		for _, s := range l.b.Nodes() {
			if !s.Up || !s.Draining || s.Free() != 0 {
				t.Errorf("while all drain, a node is %+v", s)
			}
		}
		n2.drain(false)
		four.wantEnd(t, jobend.Exited)
		if err := l.b.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		long.wantEnd(t, jobend.Exited)

		// The agent ends, and a new one answers.
		n1.cut(true)
		time.Sleep(time.Minute)
		n1.drain(false)
		n1.cut(false)
		time.Sleep(time.Minute)
		five, six := l.start("c", "1s"), l.start("d", "1s")
		if got := nodesOf(five, six); got != "n1 n2" {
			t.Errorf("with a new agent on n1, they run on %s", got)
		}

		// A new node is found that is already draining.
		n1.cut(true)
		time.Sleep(time.Minute)
		n1.drain(true)
		n1.cut(false)
		time.Sleep(time.Minute)
		seven, eight := l.start("e", "1s"), l.start("f", "1s")
		if got := nodesOf(seven, eight); got != "n2 n2" {
			t.Errorf("with n1 found again, which drains, they run on %s", got)
		}
		for _, j := range []*sent{five, six, seven, eight} {
			j.wantEnd(t, jobend.Exited)
		}
	})
}

// TestNodesCome adds nodes while the builder runs: one with two addresses, one that the name server forgets while it
// answers, and some of other platforms.
func TestNodesCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		slots := func(want int) {
			t.Helper()
			time.Sleep(time.Minute)
			if got := l.b.queue.Slots(); got != want {
				t.Errorf("%d slots, want %d", got, want)
			}
		}
		slots(4)
		l.setFound("n1", "n2", "alias", "other", "no address")
		slots(4)
		l.setFound("n2")
		slots(4)
		l.setFound()
		slots(4) // no name server
		l.setFound("n2")
		l.machines["n1"].cut(true)
		slots(2)
		l.machines["n1"].cut(false)
		slots(2) // it is not found any more
		l.setFound("alias", "n2")
		slots(4)
		l.machines["n1"].cut(true)
		l.machines["n2"].cut(true)
		time.Sleep(time.Minute)
		slots(0)
		if err := l.b.Healthy(t.Context()); !errors.Is(err, errNoNode) {
			t.Errorf("without a node it is %v", err)
		}
		if !strings.Contains(l.log.String(), errNoProgram.Error()) {
			t.Error("the log does not say that there is no program for a node's platform")
		}
	})
}

// TestPlatforms checks that jobs for a platform run on its nodes, with its program, and all other jobs on the
// builder's own platform. A repository has a home on each platform.
func TestPlatforms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		l.setFound("n1", "n2", "arm")
		time.Sleep(2 * findInterval)
		var jobs []*sent
		want := func(repository, arch, node, buildID, system string) {
			t.Helper()
			request := commandOf(fmt.Sprint(len(jobs), " 1h"))
			request.Git.Repository, request.Arch = repository, arch
			job := l.send(t.Context(), request)
			jobs = append(jobs, job)
			l.clock.mu.Lock()
			defer l.clock.mu.Unlock()
			env := l.env[request.BuildOptions.Command]
			if job.node() != node || !slices.Contains(env, jobenv.BuildID+"=for "+buildID) || !slices.Contains(env, jobenv.System+"="+system) {
				t.Errorf("%s for %q: on %s, with %q", repository, arch, job.node(), env)
			}
		}
		want("a", "", "n1", ownPlatform, "")
		want("a", "aarch64-linux", "arm", "linux/arm64", "")
		want("a1", "linux/arm64", "arm", "linux/arm64", "")
		want("b", "x86_64-linux", "n2", ownPlatform, "")
		want("c", "riscv64-linux", "n1", ownPlatform, "riscv64-linux") // an emulator may be there
		waits := l.send(t.Context(), &schemas.Request{Arch: "arm64", BuildOptions: schemas.BuildOptions{Command: "waits 1s"}})
		if got := waits.node(); got != "-" {
			t.Errorf("while the node of its platform is full, a job runs on %s", got)
		}
		for _, job := range append(jobs, waits) {
			job.wantEnd(t, jobend.Exited)
		}
		if got := waits.node(); got != "arm" {
			t.Errorf("the job that has waited runs on %s", got)
		}
	})
}

// TestNodeForgotten loses the only node of a platform. Its jobs wait while it may return: until its address is not found
// any more and forgetTime has passed. Then they run on the builder's own platform, until the node is back.
func TestNodeForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		var jobs []*sent
		want := func(when, nodes string) {
			t.Helper()
			request := commandOf("a 1m")
			request.Arch = "arm64"
			jobs = append(jobs, l.send(t.Context(), request))
			if got := nodesOf(jobs...); got != nodes {
				t.Fatalf("%s, jobs for it run on %q, want %q", when, got, nodes)
			}
		}
		end := func() {
			t.Helper()
			for _, job := range jobs {
				job.wantEnd(t, jobend.Exited)
			}
			jobs = nil
		}
		l.setFound("n1", "arm")
		time.Sleep(2 * findInterval)
		want("with a node of the platform", "arm")
		end()

		l.lose("arm")
		time.Sleep(2 * forgetTime)
		want("while its address is found", "-")
		l.setFound("n1")
		time.Sleep(4 * findInterval) // its pings end first
		want("when its address is not found any more", "n1 n1")
		end()

		l.machines["arm"].cut(false)
		l.setFound("n1", "arm")
		time.Sleep(2 * findInterval)
		want("when it is back", "arm")
		end()

		l.lose("arm")
		l.setFound("n1")
		time.Sleep(forgetTime - time.Minute)
		want("while it may start again", "-")
		time.Sleep(time.Minute + 2*findInterval)
		want("when it has not started", "n1 n1")
		end()
		if n := len(l.b.nodes); n != 1 {
			t.Errorf("the builder knows %d nodes", n)
		}
	})
}

// TestNoNodeOfOwnPlatform sends a job when all known nodes are of another platform. Its log says why it waits.
func TestNoNodeOfOwnPlatform(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const line = "iglu: no node for " + ownPlatform + " is known: the job waits for one\n"
		l := newLab(t, 1)
		l.lose("n1")
		l.setFound("arm")
		time.Sleep(2 * forgetTime)
		job := l.send(t.Context(), commandOf("a 1m"))
		if log := job.log.String(); !strings.Contains(log, line) || job.node() != "-" {
			t.Errorf("without a node of its platform, a job's log is\n%s", log)
		}
		l.machines["n1"].cut(false)
		l.setFound("arm", "n1")
		job.wantEnd(t, jobend.Exited)
		if got := job.node(); got != "n1" {
			t.Errorf("the job runs on %s", got)
		}
		other := l.send(t.Context(), commandOf("b 1m"))
		if log := other.log.String(); strings.Contains(log, line) {
			t.Errorf("with such a node, it is\n%s", log)
		}
		other.wantEnd(t, jobend.Exited)
	})
}

// TestHomeByPlatform sends jobs of one repository for two platforms. Those of each platform keep to their own node.
func TestHomeByPlatform(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		l.setFound("n1", "n2", "arm")
		time.Sleep(2 * findInterval)
		own := func() *sent {
			job := l.start("a", "1m")
			time.Sleep(10 * time.Second)
			return job
		}
		first := own()
		other := commandOf("arm 1m")
		other.Git.Repository, other.Arch = "a", "arm64"
		second := l.send(t.Context(), other)
		first.wantEnd(t, jobend.Exited)
		busy := l.start("b", "1m") // on n1, which then has fewer free slots
		third := own()
		if got := nodesOf(first, second, busy, third); got != "n1 arm n1 n1" {
			t.Errorf("they run on %s", got)
		}
		for _, job := range []*sent{second, busy, third} {
			job.wantEnd(t, jobend.Exited)
		}
	})
}

// TestFoundInPart finds one node while the lookup of others fails: that node is used, and those stay that are known.
func TestFoundInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		l := newLab(t, 2, func(o *Options) {
			find := o.Cluster.Find
			o.Cluster.Find = func(ctx context.Context) ([]string, error) {
				if broken.Load() {
					return []string{"twin"}, errors.New("the name server does not know the rest now")
				}
				return find(ctx)
			}
		})
		l.machines["n2"].cut(true)
		broken.Store(true)
		time.Sleep(time.Minute)
		l.machines["n2"].cut(false) // it is pinged still
		time.Sleep(2 * pingInterval)
		if got := l.b.queue.Slots(); got != 6 {
			t.Errorf("%d slots, want 6", got)
		}
	})
}

// TestFoundWhileClosing has the name server forget the address of a lost node, and return it again while the connection
// is being closed. The address is pinged once in each interval, as before.
func TestFoundWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pings atomic.Int32
		var forgotten atomic.Bool
		var l *lab
		l = newLab(t, 1, func(o *Options) {
			open := o.Cluster.Open
			o.Cluster.Open = func(address string) (engine.Engine, error) {
				e, err := open(address)
				return countedEngine{Engine: e, pings: &pings, closing: func() {
					if forgotten.Load() {
						l.setFound("n1")
						time.Sleep(2 * findInterval)
					}
				}}, err
			}
		})
		l.lose("n1")
		forgotten.Store(true)
		l.setFound([]string{}...)
		time.Sleep(time.Minute + time.Second) // it is not pinged at the moment of the count
		before := pings.Load()
		time.Sleep(10 * pingInterval)
		if n := pings.Load() - before; n != 10 {
			t.Errorf("in 10 intervals it was pinged %d times", n)
		}
	})
}

// A countedEngine counts its pings, and calls closing when it is closed.
type countedEngine struct {
	engine.Engine
	pings   *atomic.Int32
	closing func()
}

func (e countedEngine) Info(ctx context.Context) (engine.Info, error) {
	e.pings.Add(1)
	return e.Engine.Info(ctx)
}

func (e countedEngine) Close() error {
	e.closing()
	return e.Engine.Close()
}
