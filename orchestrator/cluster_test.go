package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
)

// TestCluster sends 30 jobs to three nodes with two slots each, most of them of one repository. Jobs of a repository
// run on the node of its first job while that has a free slot, and no more than six run at once. While a job waits, a
// slot is free for HomeTimeout at most.
func TestCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		logged := len(l.log.String())
		if err := l.b.Healthy(t.Context()); err != nil {
			t.Error(err)
		}
		var jobs []*sent
		for n := range 30 {
			repository := n % 3
			if n >= 12 {
				repository = 0
			}
			jobs = append(jobs, l.start(fmt.Sprint("repository-", repository), "1m"))
			if running, _ := l.b.Load(); running != min(n+1, 6) {
				t.Errorf("%d jobs run after %d have come", running, n+1)
			}
		}
		if got := nodesOf(jobs[:6]...); got != "n1 n2 n3 n1 n2 n3" {
			t.Errorf("the first six run on %s", got)
		}
		var free time.Duration // how long a slot has been free while a job waits
		begun := time.Now()
		for running, waiting := l.b.Load(); running > 0; running, waiting = l.b.Load() {
			if time.Since(begun) > tooLong {
				t.Fatal("they do not end")
			}
			if waiting > 0 && running < 6 {
				free += time.Second
			} else {
				free = 0
			}
			if running > 6 || free > nodes.HomeTimeout {
				t.Errorf("%d jobs run and %d wait; a slot has been free for %s", running, waiting, free)
			}
			time.Sleep(time.Second)
			synctest.Wait() // several may end at the same time
		}
		for _, j := range jobs {
			j.wantEnd(t, jobend.Exited)
		}
		for name, m := range l.machines {
			if left := names(t, m); left != "" {
				t.Errorf("left on %s: %s", name, left)
			}
		}
		if log := l.log.String()[logged:]; strings.Contains(log, "cannot look for nodes") {
			t.Errorf("nodes are found, and its log is\n%s", log)
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
		for text, want := range map[string]bool{
			errNoProgram.Error():                          true,
			"cannot look for nodes: those that are known": true,
			`"a node cannot be used" address=alias`:       false, // which is an address of n1, and that is used
		} {
			if strings.Contains(l.log.String(), text) != want {
				t.Errorf("the log has %q: %t", text, !want)
			}
		}
	})
}

// TestStopWhileLooking stops a builder that waits for a name server, which is no failure to report.
func TestStopWhileLooking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, log, _ := builder(t, nil, func(o *Options) {
			o.Cluster = &Cluster{Find: func(ctx context.Context) ([]string, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		b.Maintain(ctx)
		if log := log.String(); log != "" {
			t.Errorf("its log:\n%s", log)
		}
	})
}

// TestNamesOfNodesEnd reinstalls a machine, renames one and removes one. The metrics of a name end when no node has it any
// more.
func TestNamesOfNodesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		observed := new(observed)
		l := newLab(t, 2, func(o *Options) { o.Observer = observed })
		want := func(when, names string) {
			t.Helper()
			observed.mu.Lock()
			defer observed.mu.Unlock()
			if got := strings.Join(observed.gone, " "); got != names {
				t.Errorf("%s, these have gone: %q, want %q", when, got, names)
			}
			observed.gone = nil
		}
		change := func(name string, change func(*engine.Info)) {
			l.lose(name)
			synctest.Wait()
			change(&l.machines[name].Machine)
			l.machines[name].cut(false)
			time.Sleep(2 * forgetTime)
		}
		change("n1", func(info *engine.Info) { info.ID = "ID-reinstalled" })
		want("when one was reinstalled", "")
		change("n1", func(info *engine.Info) { info.Name = "renamed" })
		want("when it was renamed", "n1")
		l.lose("n2")
		time.Sleep(2 * forgetTime)
		want("while the address of a lost one is found", "")
		l.setFound("n1")
		time.Sleep(2 * forgetTime)
		want("when it is not", "n2")
	})
}

// TestUnhealthy disconnects the only node: the builder is healthy until the node has missed its pings.
func TestUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		time.Sleep(time.Second) // no ping is sent just now
		l.machines["n1"].cut(true)
		time.Sleep((mostMissed - 1) * pingInterval)
		if err := l.b.Healthy(t.Context()); err != nil {
			t.Errorf("before the last ping: %v", err)
		}
		time.Sleep(pingInterval)
		if err := l.b.Healthy(t.Context()); !errors.Is(err, errNoNode) {
			t.Errorf("after the last ping: %v", err)
		}
	})
}

// TestOwnLeftover loses the answer to a job's creation of its container, which the engine has created. The job gets a slot of
// the same node again, as there is no other, and then waits for its store until that container is removed as a leftover.
func TestOwnLeftover(t *testing.T) {
	for after := range sweepInterval / time.Second { // the leftover may be removed while the job waits for a slot
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, 1, func(o *Options) { o.Stores.Wait = time.Hour })
			time.Sleep(after * time.Second)
			l.machines["n1"].fails("Create", errAway)
			job := l.start("a", "1m")
			l.machines["n1"].fails("Create", nil)
			begun := time.Now()
			job.wantEnd(t, jobend.Exited)
			if took := time.Since(begun); took > createdTime+2*time.Minute {
				t.Errorf("it has ended after %s:\n%s", took, job.log.String())
			}
		})
	}
}

// TestSameID finds an engine at a second address, and another machine whose engine has the same ID because it is a copy.
// Neither is used. The log says so once.
func TestSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		l.machines["twin"].Machine.ID, l.machines["twin"].Machine.Name = "ID-n1", "copy"
		l.setFound("n1", "alias", "twin")
		time.Sleep(time.Minute)
		for _, line := range []string{
			`level=INFO msg="an address is not used: its engine is that of a node which is used at another address" address=alias node=n1 usedAt=n1`,
			`level=WARN msg="an address is not used: its engine has the ID of another machine's, of which it is probably a copy" address=twin node=n1 usedAt=n1 name=copy`,
		} {
			if log := l.log.String(); strings.Count(log, line+"\n") != 1 {
				t.Errorf("this is not there once: %s\n%s", line, log)
			}
		}
	})
}

// TestSecondAddress has a node with two addresses, as a name has that stands for an IPv4 and an IPv6 address. At the one
// that is not used, only the engine's ID is asked for: its agent would read its whole program every few seconds.
func TestSecondAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var programs, drains atomic.Int32
		l := newLab(t, 1, func(o *Options) {
			isDraining := o.Cluster.IsDraining
			o.Cluster.Program = func(_ context.Context, address, platform string) (string, error) {
				if address == "alias" {
					programs.Add(1)
				}
				return "for " + platform, nil
			}
			o.Cluster.IsDraining = func(ctx context.Context, address string) (bool, error) {
				if address == "alias" {
					drains.Add(1)
				}
				return isDraining(ctx, address)
			}
		})
		l.setFound("n1", "alias")
		time.Sleep(time.Hour)
		if programs.Load() != 0 || drains.Load() != 0 {
			t.Errorf("its agent was asked for its program %d times, and whether it drains %d times", programs.Load(), drains.Load())
		}
		if states := l.b.Nodes(); len(states) != 1 || !states[0].Up {
			t.Errorf("the nodes are %+v", states)
		}
	})
}

// TestOtherVersionReturns loses a node whose agent returns with another version, and then with other keys, as agents are
// usually changed. The log says each reason once, also while there is no node, and how often it is tried does not matter.
func TestOtherVersionReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var otherVersion atomic.Bool
		l := newLab(t, 1, func(o *Options) {
			o.Cluster.Program = func(_ context.Context, _, platform string) (string, error) {
				if otherVersion.Load() {
					return "", errNoProgram
				}
				return "for " + platform, nil
			}
		})
		errKeys := &engine.Failure{End: jobend.EngineGone, Call: "answer", What: "They do not trust each other's keys.", Advice: "Replace them."}
		want := func(when string, lines ...string) {
			t.Helper()
			time.Sleep(time.Minute)
			for _, line := range lines {
				if log := l.log.String(); strings.Count(log, line) != 1 {
					t.Errorf("%s, this is not there once: %s\n%s", when, line, log)
				}
			}
		}
		l.lose("n1")
		noAnswer := fmt.Sprintf(`level=WARN msg="a node gets no more jobs until it answers" node=n1 err=%q`, errAway)
		want("while it does not answer", noAnswer)
		otherVersion.Store(true)
		l.machines["n1"].cut(false)
		version := fmt.Sprintf(`level=WARN msg="a node cannot be used" address=n1 err=%q`, errNoProgram)
		want("with another version", noAnswer, version)
		l.machines["n1"].fails("Info", errKeys)
		keys := fmt.Sprintf(`level=WARN msg="a node cannot be used" address=n1 err=%q`, errKeys)
		want("with other keys", noAnswer, version, keys)
		l.machines["n1"].cut(true)
		want("while it does not answer again", noAnswer, version, keys)
		if log := l.log.String(); strings.Count(log, "a node cannot be used") != 2 {
			t.Errorf("its log:\n%s", log)
		}
	})
}

// TestLookupFails has no name server for an hour, twice. The log says once each time that names cannot be looked up,
// although the text of the error differs, and that they can again.
func TestLookupFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		var port atomic.Int32
		l := newLab(t, 1, func(o *Options) {
			find := o.Cluster.Find
			o.Cluster.Find = func(ctx context.Context) ([]string, error) {
				found, err := find(ctx)
				if broken.Load() {
					err = fmt.Errorf("read udp 192.0.2.1:%d: i/o timeout", port.Add(1))
				}
				return found, err
			}
		})
		before := len(l.log.String())
		for _, fails := range []bool{true, false, true, false} {
			broken.Store(fails)
			time.Sleep(time.Hour)
		}
		var lines []string
		for line := range strings.Lines(l.log.String()[before:]) {
			if at := strings.Index(line, "level="); at > 0 {
				line, _, _ = strings.Cut(line[at:], " err=")
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		const fails, again = `level=WARN msg="cannot look for nodes: those that are known stay"`, `level=INFO msg="the builder can look for nodes again"`
		want := []string{fails, again, fails, again}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("its log (-want +got):\n%s", diff)
		}
	})
}

// TestFoundInPart cannot look up one of several names, for ever. Nodes with other names come and go all the same.
func TestFoundInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, func(o *Options) {
			find := o.Cluster.Find
			o.Cluster.Find = func(ctx context.Context) ([]string, error) {
				found, _ := find(ctx)
				return found, errors.New("the name server does not know the rest now")
			}
		})
		want := func(when, names string) {
			t.Helper()
			time.Sleep(2 * forgetTime)
			var listed []string
			for _, s := range l.b.Nodes() {
				listed = append(listed, s.Name)
			}
			if got := strings.Join(listed, ", "); got != names {
				t.Errorf("%s, the nodes are %s, want %s", when, got, names)
			}
		}
		l.setFound("n1", "n2", "twin")
		want("with another one", "n1, n1 (twin), n2")
		l.machines["n2"].cut(true)
		want("while one does not answer", "n1, n1 (twin), n2")
		l.setFound("n1", "twin")
		want("when that is not found any more", "n1, n1 (twin)")
		if n := len(l.b.nodes); n != 2 {
			t.Errorf("the builder knows %d nodes", n)
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
