package orchestrator

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memengine"
)

// newRetryLab returns a lab whose builder runs lost jobs once more. A container of a lost node continues for as long as a
// container can run without its builder.
func newRetryLab(t *testing.T, machines int, change ...func(*Options)) *lab {
	t.Cleanup(func() { time.Sleep(jobenv.Outlives) }) // until they have ended
	l := newLab(t, machines, append(change, func(o *Options) { o.RetryLost = true })...)
	l.outlives = jobenv.Outlives - time.Second
	return l
}

// wantOnce checks that no job had two containers at once.
func (l *lab) wantOnce() {
	l.t.Helper()
	l.clock.mu.Lock()
	defer l.clock.mu.Unlock()
	if len(l.atOnce) > 0 {
		l.t.Errorf("they ran twice at once: %q", l.atOnce)
	}
}

// lose disconnects a machine, and returns when its jobs are lost.
func (l *lab) lose(name string) {
	l.machines[name].cut(true)
	time.Sleep((mostMissed + 1) * pingInterval)
}

// TestRetry loses the node of a job. The job runs once more on another node when its first container has ended. Its client
// gets a message about that, and the verdict contains nothing of the first run.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRetryLab(t, 2)
		one, two := l.start("a", "5m"), l.start("b", "5m")
		time.Sleep(time.Minute)
		l.lose("n1")
		begun := time.Now()
		one.wantEnd(t, jobend.Exited)
		if took := time.Since(begun); took < 5*time.Minute+jobenv.Outlives-2*pingInterval || took > 5*time.Minute+jobenv.Outlives+pingInterval {
			t.Errorf("it has ended %s after it was lost", took)
		}
		two.wantEnd(t, jobend.Exited)
		l.wantOnce()
		log := one.log.String()
		for _, want := range []string{"iglu: on node n1\n", "iglu: node n1 is lost: the job runs once more, on another node if there is one, when what runs there has ended by itself (1m0s)\n", "iglu: on node n2\n"} {
			before, after, ok := strings.Cut(log, want)
			if !ok || strings.Contains(after, want) {
				t.Errorf("%q is not once in its log, or too early: %q\n%s", want, before, one.log.String())
			}
			log = after
		}
		event, err := schemas.ParseEvent(one.last.Event)
		if err != nil {
			t.Fatal(err)
		}
		var phases []string
		for _, p := range event.(schemas.VerdictEvent).Phases {
			phases = append(phases, string(p.Phase))
		}
		if got := strings.Join(phases, " "); got != "create wait create" {
			t.Errorf("its phases are %s", got)
		}

		// When the node is back, the first run's store is free and its container is removed.
		l.machines["n1"].cut(false)
		time.Sleep(time.Minute)
		if left := names(t, l.machines["n1"]); left != "" {
			t.Errorf("left on n1: %s", left)
		}
		l.lose("n2")
		three := l.start("a", "1s")
		three.wantEnd(t, jobend.Exited)
		if got := three.node(); got != "n1" || strings.Contains(three.log.String(), "another job has this job's Nix store") {
			t.Errorf("on node %s\n%s", got, three.log.String())
		}
	})
}

// TestRetryOnce runs a job that loses both of its nodes.
func TestRetryOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRetryLab(t, 3)
		one := l.start("a", "5m")
		l.lose("n1")
		time.Sleep(2 * time.Minute)
		l.lose("n2")
		one.wantEnd(t, jobend.EngineGone)
		if got := strings.Count(one.log.String(), "runs once more"); got != 1 {
			t.Errorf("its log says %d times that it runs once more\n%s", got, one.log.String())
		}
	})
}

// TestRetryOfNothing loses a node before the job's container has started there: the job does not wait.
func TestRetryOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRetryLab(t, 2)
		l.machines["n1"].cut(true)
		begun := time.Now()
		one := l.start("a", "1m")
		one.wantEnd(t, jobend.Exited)
		if took := time.Since(begun); took > time.Minute+time.Second {
			t.Errorf("it took %s\n%s", took, one.log.String())
		}
	})
}

// TestRetryAlone loses the only node, which returns: the job runs there again.
func TestRetryAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, store := range []string{"a", ""} { // without a repository, its store is not kept
			l := newRetryLab(t, 1)
			one := l.start(store, "1m")
			l.lose("n1")
			time.Sleep(10 * time.Minute)
			if running, waiting := l.b.Load(); running != 0 || waiting != 1 {
				t.Errorf("%d run and %d wait", running, waiting)
			}
			l.machines["n1"].cut(false)
			one.wantEnd(t, jobend.Exited)
			l.wantOnce()
		}
	})
}

// TestRetryRemoves loses a node, which returns while the job's container still runs there: the container is removed,
// although the job has not ended.
func TestRetryRemoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRetryLab(t, 2)
		l.outlives = time.Hour
		one := l.start("a", "5m")
		l.lose("n1")
		l.machines["n1"].cut(false)
		time.Sleep(pingInterval + sweepInterval)
		if left := names(t, l.machines["n1"]); left != "" {
			t.Errorf("left on n1: %s", left)
		}
		one.wantEnd(t, jobend.Exited)
	})
}

// TestRetryEnds ends a lost job before it runs again.
func TestRetryEnds(t *testing.T) {
	for want, what := range map[jobend.End]func(l *lab, leave context.CancelCauseFunc){
		jobend.TimedOut:   func(l *lab, _ context.CancelCauseFunc) { time.Sleep(time.Minute) },
		jobend.Cancelled:  func(l *lab, _ context.CancelCauseFunc) { l.b.Cancel(l.b.records.(*keptRecords).latest()) },
		jobend.ClientGone: func(_ *lab, leave context.CancelCauseFunc) { leave(jobend.ClientGone) },
		jobend.Shutdown:   func(l *lab, _ context.CancelCauseFunc) { l.b.Drain(l.t.Context()) },
	} {
		t.Run(string(want), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newRetryLab(t, 2, func(o *Options) { o.Deadlines.Build = 90 * time.Second })
				ctx, leave := context.WithCancelCause(t.Context())
				one := l.startWith(ctx, "a", "5m")
				time.Sleep(time.Minute - mostMissed*pingInterval)
				l.lose("n1")
				what(l, leave)
				one.wantEnd(t, want)
				if strings.Contains(one.log.String(), "on node n2") || !strings.Contains(one.log.String(), "runs once more") {
					t.Errorf("its log:\n%s", one.log.String())
				}
				if running, waiting := l.b.Load(); running+waiting > 0 {
					t.Errorf("%d run and %d wait", running, waiting)
				}
				leave(nil)
			})
		})
	}
}

// TestNothingHasRun starts jobs on nodes that do not answer. They run on another node, or when one is back.
func TestNothingHasRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		time.Sleep(time.Second) // no ping comes first
		l.machines["n1"].cut(true)
		one := l.start("a", "1m")
		one.wantEnd(t, jobend.Exited)
		const line = "iglu: node n1 does not answer: the job waits for a slot again\niglu: on node n2\n"
		if !strings.Contains(one.log.String(), line) {
			t.Errorf("its log:\n%s", one.log.String())
		}

		l.machines["n2"].cut(true)
		two := l.start("a", "1m") // n2 is the home of a
		l.wantLoad("without a node", 0, 1)
		time.Sleep(10 * time.Minute)
		l.machines["n1"].cut(false)
		two.wantEnd(t, jobend.Exited)
	})
}

var errGoes = &engine.Failure{End: jobend.EngineGone, Call: "make the container", What: "The container engine went away.", Advice: "Send the job again."}

// TestNeverBegins checks that a job that breaks each node's engine before it begins is retried a few times only.
func TestNeverBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		for _, name := range []string{"n1", "n2"} {
			l.machines[name].fails("Create", errGoes)
		}
		for _, repository := range []string{"a", ""} { // without a repository, its store is not kept
			one := l.start(repository, "1m")
			one.wantEnd(t, jobend.EngineGone)
			if n := strings.Count(one.log.String(), "waits for a slot again"); n != maxMisses-1 {
				t.Errorf("it has waited %d times\n%s", n, one.log.String())
			}
		}
	})
}

// TestRetryInTime loses the node of a job, and the next node fails before the job begins there. The deadline of the job
// counts from its first slot all the same.
func TestRetryInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const deadline = 4 * time.Minute
		l := newRetryLab(t, 2, func(o *Options) { o.Deadlines.Build = deadline })
		n2 := l.machines["n2"]
		n2.fails("Create", errGoes)
		begun := time.Now()
		one := l.start("a", "10m")
		time.Sleep(time.Minute)
		l.lose("n1")
		for !strings.Contains(one.log.String(), "node n2 does not answer") {
			if time.Sleep(time.Second); time.Since(begun) > tooLong {
				t.Fatalf("its log:\n%s", one.log.String())
			}
		}
		n2.fails("Create", nil)
		one.wantEnd(t, jobend.TimedOut)
		if took := time.Since(begun); took > deadline+stopGrace {
			t.Errorf("it has ended after %s, and its deadline is %s\n%s", took, deadline, one.log.String())
		}
	})
}

// TestNodeCannotBegin sends jobs to nodes that answer, but on which no job can begin. They run on the other nodes, also if
// those are full at first: such a node always has free slots.
func TestNodeCannotBegin(t *testing.T) {
	for call, err := range map[string]*engine.Failure{
		"Create":         {Call: "make the container", What: "The container engine failed to make the container: no space left on device.", Advice: "Its log says more."},
		"Volumes.Create": {Call: "provide the job's store", What: "The container engine failed to provide the job's store: no space left on device.", Advice: "Its log says more."},
		"Image":          errNoImage,
		"Start":          {Call: "start the container", What: "The container engine failed to start the container: runc is missing.", Advice: "Its log says more."},
	} {
		t.Run(call, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 4)
				l.machines["n1"].fails(call, err)
				l.machines["n2"].fails(call, err)
				var jobs []*sent
				for n := range 8 {
					jobs = append(jobs, l.start(fmt.Sprint("repository-", n), "1m"))
				}
				for _, j := range jobs {
					j.wantEnd(t, jobend.Exited)
					if log := j.log.String(); !strings.Contains(log, "\niglu: on node n3\n") && !strings.Contains(log, "\niglu: on node n4\n") {
						t.Errorf("its log:\n%s", log)
					}
				}
				why := "iglu: on node n1 " + lowerFirst(err.What) + " The job waits for a slot of another node\n"
				if log := jobs[0].log.String(); strings.Count(log, why) != 1 {
					t.Errorf("its log does not say once %q:\n%s", why, log)
				}
			})
		})
	}
}

// TestNowhereBegins checks that a job ends with the failure of its engine if it has been on every node that it could have, and
// at once if that is the only one.
func TestNowhereBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		l.setFound("n1", "n2", "n3", "arm")
		time.Sleep(2 * findInterval)
		for _, m := range l.machines {
			m.fails("Image", errNoImage)
		}
		want := func(when string, nodes int) {
			t.Helper()
			begun := time.Now()
			one := l.start("a", "1m")
			one.wantEnd(t, jobend.NoImage)
			if n := strings.Count(one.log.String(), "waits for a slot of another node"); n != nodes-1 {
				t.Errorf("%s, it has waited %d times\n%s", when, n, one.log.String())
			}
			if took := time.Since(begun); took > time.Second {
				t.Errorf("%s, it took %s", when, took)
			}
		}
		want("with three nodes", 3)
		l.machines["n2"].drain(true)
		time.Sleep(2 * pingInterval)
		want("with one that drains", 2)
		l.lose("n3")
		want("with one that is lost, too", 1)
	})
}

// TestManyNodesCannotBegin sends a job to nodes that answer, but on which no job can begin. It is tried on a few of them only.
func TestManyNodesCannotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, maxMisses+2)
		for _, m := range l.machines {
			m.fails("Image", errNoImage)
		}
		one := l.start("a", "1m")
		one.wantEnd(t, jobend.NoImage)
		if n := strings.Count(one.log.String(), "waits for a slot of another node"); n != maxMisses-1 {
			t.Errorf("it has waited %d times\n%s", n, one.log.String())
		}
	})
}

// TestEndsOnItsNode has a job fail for a reason of its own before it begins, and a call of the engine fail after another job has
// begun. They do not run on the other node.
func TestEndsOnItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		want := func(what string, one *sent) {
			t.Helper()
			one.wantEnd(t, jobend.Failed)
			if log := one.log.String(); one.node() != "n1" || strings.Contains(log, "waits for a slot") {
				t.Errorf("the log of %s:\n%s", what, log)
			}
		}
		request := commandOf("a 1m")
		request.Arch = "sparc-linux"
		want("a job for a system that Nix does not know", l.send(t.Context(), request))

		n1 := l.machines["n1"]
		n1.Run = func(*memengine.Process) int { return 3 }
		n1.fails("Wait", &engine.Failure{Call: "wait for the container", What: "The container engine failed to wait for the container.", Advice: "Its log says more."})
		want("a job that has begun", l.start("b", "1m"))
	})
}

// TestRetryRecord reads the record of a job that has lost its only node. While it waits, it has no node and has not started, as
// any other job that waits. When it has ended, the record says when it got its first slot, and where it ran last.
func TestRetryRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRetryLab(t, 2)
		l.lose("n2")
		synctest.Wait()
		record := func() history.Record {
			all := l.b.records.(*keptRecords)
			all.mu.Lock()
			defer all.mu.Unlock()
			return all.all[len(all.all)-1]
		}
		want := func(when, node string, started time.Time, runs, waits bool) {
			t.Helper()
			if r := record(); r.Node != node || !r.Started.Equal(started) || r.Runs() != runs || r.Waits() != waits {
				t.Errorf("%s: node %q, started %s, runs: %t, waits: %t", when, r.Node, r.Started, r.Runs(), r.Waits())
			}
		}
		one := l.start("a", "5m")
		started := record().Started
		want("at first", "n1", started, true, false)
		l.lose("n1")
		want("while it waits", "", time.Time{}, true, true)
		l.machines["n2"].cut(false)
		time.Sleep(jobenv.Outlives + time.Second)
		want("on another node", "n2", started, true, false)
		one.wantEnd(t, jobend.Exited)
		want("at its end", "n2", started, false, false)

		two := l.start("b", "5m")
		started = record().Started
		l.lose("n2")
		want("while the second waits", "", time.Time{}, true, true)
		l.b.Cancel(record().Job)
		two.wantEnd(t, jobend.Cancelled)
		want("cancelled while it waits", "n2", started, false, false)
	})
}

// A startEngine does not answer when it is asked to start a container.
type startEngine struct{ engine.Engine }

func (e startEngine) Create(ctx context.Context, spec engine.Spec) (engine.Container, error) {
	c, err := e.Engine.Create(ctx, spec)
	return startContainer{c}, err
}

type startContainer struct{ engine.Container }

func (startContainer) Start(ctx context.Context) (engine.Stream, error) {
	<-ctx.Done()
	return nil, &engine.Failure{Call: "start the container", What: "The container engine failed to start the container.", Cause: ctx.Err()}
}

// TestRetryOfStart loses a node while it is asked to start the job's container: it may have started it, so the job waits before
// it runs on another node.
func TestRetryOfStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRetryLab(t, 2, func(o *Options) {
			open := o.Cluster.Open
			o.Cluster.Open = func(address string) (engine.Engine, error) {
				e, err := open(address)
				if address == "n1" {
					e = startEngine{e}
				}
				return e, err
			}
		})
		one := l.start("a", "1m")
		l.lose("n1")
		begun := time.Now()
		one.wantEnd(t, jobend.Exited)
		if took := time.Since(begun); took < jobenv.Outlives+time.Minute-2*pingInterval {
			t.Errorf("it has ended %s after its node was lost\n%s", took, one.log.String())
		}
	})
}

// TestMissedInTime sends a job to a node on which no job can begin, while the other one is full for longer than a job may take.
// The time that it waits does not count, because nothing of it has run.
func TestMissedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const deadline = 10 * time.Minute
		l := newLab(t, 2, func(o *Options) { o.MaxJobs, o.Deadlines.Build = 1, deadline })
		l.machines["n1"].fails("Image", errNoImage)
		first := l.start("a", "9m")
		time.Sleep(time.Second)
		second, third := l.start("b", "9m"), l.start("c", "11m")
		first.wantEnd(t, jobend.Exited)
		second.wantEnd(t, jobend.Exited)
		begun := time.Now()
		third.wantEnd(t, jobend.TimedOut)
		if took := time.Since(begun); took < deadline-time.Second || took > deadline+stopGrace {
			t.Errorf("it has ended %s after its slot, and its deadline is %s\n%s", took, deadline, third.log.String())
		}
	})
}
