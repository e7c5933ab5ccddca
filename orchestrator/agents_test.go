package orchestrator

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
)

// An agent is one of several connections to a machine's engine. When it fails, only the calls through it fail.
type agent struct {
	*machine
	away, draining atomic.Bool
	jobs           atomic.Int32 // whose containers were made through it
}

func (a *agent) Info(ctx context.Context) (engine.Info, error) {
	if a.away.Load() {
		return engine.Info{}, errAway
	}
	return a.machine.Info(ctx)
}

func (a *agent) Create(ctx context.Context, spec engine.Spec) (engine.Container, error) {
	if a.away.Load() {
		return nil, errAway
	}
	if spec.Labels[engine.LabelJob] != "" {
		a.jobs.Add(1)
	}
	return a.machine.Create(ctx, spec)
}

// newAgentLab returns a lab with a machine n1 that has two agents. The second is not found yet.
func newAgentLab(t *testing.T) (l *lab, old, fresh *agent) {
	old, fresh = new(agent), new(agent)
	l = newLab(t, 1, func(o *Options) {
		agents := map[string]*agent{"n1": old, "fresh": fresh}
		ofMachine := *o.Cluster
		o.Cluster.Open = func(address string) (engine.Engine, error) {
			e, err := ofMachine.Open("n1")
			agents[address].machine = e.(*machine)
			return agents[address], err
		}
		o.Cluster.IsDraining = func(_ context.Context, address string) (bool, error) {
			if agents[address].away.Load() {
				return false, errAway
			}
			return agents[address].draining.Load(), nil
		}
	})
	return l, old, fresh
}

func (l *lab) wantLoad(when string, running, waiting int) {
	l.t.Helper()
	if r, w := l.b.Load(); r != running || w != waiting {
		l.t.Errorf("%s: %d jobs run and %d wait, want %d and %d", when, r, w, running, waiting)
	}
}

// TestAgentReplaced asks an agent to stop while a job runs, and starts a new one of the same engine at another
// address. New jobs use the new agent, and share slots and stores with the running jobs.
func TestAgentReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, old, fresh := newAgentLab(t)
		one := l.start("a", "20m")
		old.draining.Store(true)
		time.Sleep(pingInterval)
		two := l.start("b", "1m")
		l.wantLoad("without another agent", 1, 1)

		l.setFound("n1", "fresh")
		time.Sleep(2 * pingInterval)
		l.wantLoad("with another agent", 2, 0)
		three := l.start("c", "1m")
		l.wantLoad("with one more job", 2, 1)
		two.wantEnd(t, jobend.Exited)
		three.wantEnd(t, jobend.Exited)
		four := l.start("a", "1m")
		time.Sleep(time.Minute)
		if !strings.Contains(four.log.String(), "another job has this job's Nix store") {
			t.Errorf("the job does not wait for the store of the one that the old agent has\n%s", four.log.String())
		}
		l.wantStates("with two agents", nodes.State{Name: "n1", Up: true, Platform: ownPlatform, CPUs: 8, Memory: 8 << 30,
			Slots: 2, Running: 2, Stores: 3, StoreBytes: 3000})

		l.setFound("fresh")
		one.wantEnd(t, jobend.Exited)
		old.away.Store(true)
		four.wantEnd(t, jobend.Exited)
		if got := nodesOf(one, two, three, four); got != "n1 n1 n1 n1" {
			t.Errorf("they run on %s", got)
		}
		if old.jobs.Load() != 1 || fresh.jobs.Load() != 3 {
			t.Errorf("the old agent has made %d containers of jobs, and the new one %d", old.jobs.Load(), fresh.jobs.Load())
		}
		time.Sleep(time.Minute)
		if left := names(t, fresh.machine); left != "" {
			t.Errorf("left: %s", left)
		}
		if log := l.log.String(); strings.Contains(log, "node lost") {
			t.Errorf("its log:\n%s", log)
		}
	})
}

// TestReplacedAgentLost disconnects the old one of two agents. Its job is lost, and no other.
func TestReplacedAgentLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, old, _ := newAgentLab(t)
		one := l.start("a", "20m")
		old.draining.Store(true)
		time.Sleep(pingInterval)
		l.setFound("n1", "fresh")
		time.Sleep(2 * pingInterval)
		two := l.start("b", "5m")
		old.away.Store(true)
		begun := time.Now()
		one.wantEnd(t, jobend.EngineGone)
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("its client got the result after %s", took)
		}
		three := l.start("a", "1m")
		three.wantEnd(t, jobend.Exited)
		two.wantEnd(t, jobend.Exited)
	})
}

// TestReplacementDrains asks both agents of a machine to stop. The second does not replace the first: it would get no jobs either.
func TestReplacementDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, old, fresh := newAgentLab(t)
		old.draining.Store(true)
		fresh.draining.Store(true)
		time.Sleep(2 * pingInterval)
		e, err := l.b.cluster.Open("fresh")
		if err != nil {
			t.Fatal(err)
		}
		info, err := e.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n, err := l.b.cluster.nodeOf(t.Context(), e, info, "fresh"); n != nil || err != nil {
			t.Errorf("it replaces the first: %t, %v", n != nil, err)
		}
		fresh.draining.Store(false)
		l.setFound("n1", "fresh")
		l.start("a", "1m").wantEnd(t, jobend.Exited)
		if fresh.jobs.Load() != 1 {
			t.Error("it does not replace the first when it is not asked to stop any more")
		}
	})
}

// TestAgentDies stops an agent without warning. Another one answers before three pings are missed.
func TestAgentDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, old, fresh := newAgentLab(t)
		l.setFound("n1", "fresh")
		time.Sleep(time.Minute)
		old.away.Store(true)
		one := l.start("a", "1s")
		begun := time.Now()
		one.wantEnd(t, jobend.Exited)
		if took := time.Since(begun); took > 2*pingInterval {
			t.Errorf("it has waited for %s", took)
		}
		if fresh.jobs.Load() != 1 {
			t.Error("it does not run through the agent that answers")
		}
	})
}

// TestAgentReturns has an agent return for a while that another one has replaced, because its job still runs. Whether it
// answers does not matter to new jobs.
func TestAgentReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, old, fresh := newAgentLab(t)
		long := l.start("a", "20m")
		l.setFound("n1", "fresh")
		time.Sleep(2 * pingInterval)
		for _, away := range []bool{true, false, true} {
			old.away.Store(away)
			time.Sleep(2 * pingInterval)
		}
		begun := time.Now()
		l.start("b", "1m").wantEnd(t, jobend.Exited)
		if took := time.Since(begun); took > time.Minute+time.Second || fresh.jobs.Load() != 1 {
			t.Errorf("it took %s, and %d jobs ran through the new agent", took, fresh.jobs.Load())
		}
		old.away.Store(false)
		long.wantEnd(t, jobend.EngineGone)
	})
}

// TestNodeSilent checks a node that does not answer for so short a time that its jobs are not lost. Meanwhile new jobs
// run on other nodes.
func TestNodeSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		n1 := l.machines["n1"]
		long := l.start("a", "5m")
		n1.cut(true)
		time.Sleep(pingInterval)
		two, three := l.start("a", "1s"), l.start("b", "1s")
		if got := nodesOf(long, two, three); got != "n1 n2 n2" {
			t.Errorf("while n1 does not answer, they run on %s", got)
		}
		if states := l.b.Nodes(); states[0].Up || states[0].Problem != "The container engine does not answer." {
			t.Errorf("while n1 does not answer, it is %+v", states[0])
		}
		if err := l.b.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		n1.cut(false)
		time.Sleep(pingInterval)
		four, five := l.start("c", "1m"), l.start("d", "1m")
		if got := nodesOf(four, five); got != "n2 n1" {
			t.Errorf("with n1 back, they run on %s", got)
		}
		for _, j := range []*sent{long, two, three, four, five} {
			j.wantEnd(t, jobend.Exited)
		}
		if strings.Contains(l.log.String(), "node lost") {
			t.Error("the node counts as gone")
		}
	})
}
