package orchestrator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memengine"
)

var errNoImage = &engine.Failure{End: jobend.NoImage, Call: "pull the job image", What: "The job image is gone.", Advice: "Look for it."}

func (m *machine) loseImage(noImage bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = nil
	if noImage {
		m.broken = map[string]error{"Image": errNoImage, "Ready": errNoImage}
	}
}

// wantStates waits until the builder is idle, and compares the states of its nodes.
func (l *lab) wantStates(when string, want ...nodes.State) {
	l.t.Helper()
	time.Sleep(20 * time.Second)
	states := l.b.Nodes()
	for i := range states {
		if since := states[i].Since; since.IsZero() != states[i].Up || !states[i].Up && time.Since(since) > 5*time.Minute {
			l.t.Errorf("%s: %s is up: %t, since %s", when, states[i].Name, states[i].Up, since)
		}
		states[i].Since = time.Time{}
	}
	if diff := cmp.Diff(want, states); diff != "" {
		l.t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// TestReadyReadsNoStores counts the allocations of a readiness check, before and after a node has many stores. What is known
// of stores is in files, which the check does not need.
func TestReadyReadsNoStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		l.wantStates("alone", nodes.State{Name: "n1", Up: true, Platform: ownPlatform, CPUs: 8, Memory: 8 << 30, Slots: 2})
		check := func() {
			if err := l.b.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		}
		before := testing.AllocsPerRun(10, check)
		const many = 200
		for id := range l.b.cluster.byID {
			folder := l.b.options.Stores.OfNode(id).Folder
			if err := os.MkdirAll(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			for n := range many {
				if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(n, ".json")), []byte(`{"bytes":10}`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if after := testing.AllocsPerRun(10, check); after > before+many {
			t.Errorf("%v allocations, and %v without stores", after, before)
		}
		if s := l.b.Nodes()[0]; s.Stores != many || s.StoreBytes != 10*many {
			t.Errorf("%d stores of %d bytes", s.Stores, s.StoreBytes)
		}
	})
}

// TestNodes checks the states of nodes: while jobs run, of a lost node, of an address that never answered, and of two
// machines with the same name.
func TestNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		one := nodes.State{Name: "n1", Up: true, Platform: ownPlatform, CPUs: 8, Memory: 8 << 30, Slots: 2}
		l.wantStates("alone", one)

		l.setFound("n1", "twin", "alias", "other", "no address")
		time.Sleep(2 * findInterval)
		two, other := one, nodes.State{Name: "other", Problem: errNoProgram.Error()}
		two.Name = "n1 (twin)"
		job := l.start("a", "10m")
		one.Running, one.Stores, one.StoreBytes = 1, 1, 1000 // as the stores' maintenance has found
		l.wantStates("with a job", one, two, other)

		l.machines["twin"].loseImage(true)
		time.Sleep(imageInterval)
		two.Problem = "The job image is gone."
		l.wantStates("without an image on the twin", one, two, other)
		l.machines["twin"].loseImage(false)
		time.Sleep(imageInterval)
		two.Problem = ""

		l.machines["n1"].cut(true)
		job.wantEnd(t, jobend.EngineGone)
		one.Up, one.Running, one.Problem = false, 0, "The container engine does not answer."
		l.wantStates("when n1 is gone", one, two, other)
		for range 50 { // as the order of what is not there differs
			if n := len(l.b.Nodes()); n != 3 {
				t.Errorf("when n1 is gone, there are %d nodes", n)
			}
		}
		l.machines["n1"].cut(false)
		time.Sleep(time.Minute)
		if states := l.b.Nodes(); len(states) != 3 || !states[0].Up || !states[0].Since.IsZero() || states[0].Problem != "" {
			t.Errorf("when n1 is back: %+v", states)
		}
	})
}

// TestReinstalled replaces a lost machine by one of the same name, at the same address and with another engine. It has the
// name alone, also when there is another machine of that name.
func TestReinstalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		l.lose("n1")
		synctest.Wait()
		l.machines["n1"].Machine.ID = "ID-reinstalled"
		l.machines["n1"].cut(false)
		one := nodes.State{Name: "n1", Up: true, Platform: ownPlatform, CPUs: 8, Memory: 8 << 30, Slots: 2}
		l.wantStates("reinstalled", one)
		two := one
		two.Name = "n1 (twin)"
		l.setFound("n1", "twin")
		l.wantStates("with another machine of that name", one, two)
	})
}

// TestReplacedQuickly replaces the engine at an address by another one, so quickly that its node is not lost. When no job runs,
// the node is that of the new engine.
func TestReplacedQuickly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		job := l.start("a", "1m")
		l.machines["n1"].cut(true)
		time.Sleep(pingInterval)
		synctest.Wait()
		l.machines["n1"].Machine.ID = "ID-replaced"
		l.machines["n1"].cut(false)
		want := func(when, id string) {
			t.Helper()
			c := l.b.cluster
			c.mu.Lock()
			defer c.mu.Unlock()
			for other, n := range c.byID {
				if n.inUse != (other == id) || n.inUse && !n.takes {
					t.Errorf("%s, the node of %s is in use: %t, and gets jobs: %t", when, other, n.inUse, n.takes)
				}
			}
		}
		time.Sleep(2 * pingInterval)
		want("while a job runs", "ID-n1")
		job.wantEnd(t, jobend.Exited)
		time.Sleep(3 * pingInterval)
		want("when it has ended", "ID-replaced")
		next := l.start("a", "1m")
		next.wantEnd(t, jobend.Exited)
		if states := l.b.Nodes(); next.node() != "n1" || len(states) != 1 || states[0].Name != "n1" {
			t.Errorf("the next job runs on %s, and the nodes are %+v", next.node(), states)
		}
	})
}

// TestNewsOfAbsence has an address at which each problem has another text. The log gets a few of them, and each once.
func TestNewsOfAbsence(t *testing.T) {
	a, news := new(absence), 0
	for n := range 2 * maxLogged {
		a.why = fmt.Errorf("problem %d", n)
		for range 2 {
			if a.isNews() {
				news++
			}
		}
	}
	if news != maxLogged {
		t.Errorf("the log has %d problems, want %d", news, maxLogged)
	}
}

// TestNames names machines that all have the same name. No two that are listed get one name: the metrics would fail.
func TestNames(t *testing.T) {
	for _, test := range []struct {
		when   string
		others map[string]*node  // by the IDs of their engines
		lastAt map[string]string // the IDs, by addresses
		want   string
	}{
		{"it is the first", nil, nil, "debian"},
		{"it has the name", map[string]*node{"ID": {name: "debian", inUse: true}}, nil, "debian"},
		{"another has the name", map[string]*node{"other": {name: "debian", inUse: true}}, nil, "debian (here)"},
		{"another has the name, and is lost", map[string]*node{"other": {name: "debian"}}, map[string]string{"there": "other"}, "debian (here)"},
		{"another had the name, and its address has another engine", map[string]*node{"other": {name: "debian"}}, map[string]string{"here": "ID"}, "debian"},
		{"a third was at the address, and has got an agent at another one", map[string]*node{"other": {name: "debian", inUse: true},
			"third": {name: "debian (here)", inUse: true}}, map[string]string{"there": "third"}, "debian (here, ID)"},
	} {
		c := &cluster{byID: test.others, lastAt: test.lastAt}
		if got := c.nameOf(engine.Info{ID: "ID", Name: "debian"}, "here"); got != test.want {
			t.Errorf("%s: %q, want %q", test.when, got, test.want)
		}
	}
}

// TestNodesReady checks that a builder is ready while a job could run on any node. Otherwise it gives the reason of each node.
func TestNodesReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		want := func(when, reason string) {
			t.Helper()
			time.Sleep(time.Minute)
			got := ""
			if err := l.b.Ready(t.Context()); err != nil {
				got = err.Error()
			}
			if got != reason {
				t.Errorf("%s: %q, want %q", when, got, reason)
			}
		}
		want("both are there", "")
		l.machines["n1"].cut(true)
		want("one is there", "")
		l.machines["n2"].loseImage(true)
		want("neither can be used", "On no node can a job run. n1: The container engine does not answer. n2: The job image is gone.")
		l.machines["n2"].loseImage(false)
		want("the other can be used again", "")
		l.machines["n2"].cut(true)
		l.setFound("no address")
		want("none is there", "The cluster has no node. Start one, or set IGLU_NODES to the addresses of the nodes.")
		if states := l.b.Nodes(); states == nil || len(states) > 0 {
			t.Errorf("without a node they are %+v", states)
		}
	})
}

// TestManyNotReady has more nodes without an image than are listed.
func TestManyNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, maxListed+2)
		for i := range maxListed + 2 {
			l.machines[fmt.Sprint("n", i+1)].loseImage(true)
		}
		const want = "On no node can a job run. n1: The job image is gone. n2: The job image is gone. n3: The job image is gone. " +
			"n4: The job image is gone. n5: The job image is gone. And so on, for 2 more."
		if err := l.b.Ready(t.Context()); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		l.machines["n6"].loseImage(false)
		l.machines["n7"].cut(true)
		time.Sleep(pingInterval)
		if err := l.b.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestReadyAlone checks that a builder with one engine is ready while the engine is, and says why it is not.
func TestReadyAlone(t *testing.T) {
	b, log, _ := builder(t, nil)
	if err := b.Ready(t.Context()); err != nil || log.String() != "" {
		t.Errorf("%v, its log:\n%s", err, log)
	}
	b.local.engine.(*memengine.Engine).Fail = func(string) error { return errNoImage }
	if err := b.Ready(t.Context()); err == nil || err.Error() != "The job image is gone. Look for it." || !strings.Contains(log.String(), "not ready") {
		t.Errorf("without the image: %v, its log:\n%s", err, log)
	}
}

// TestStoresSize counts the stores of two nodes.
func TestStoresSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		jobs := []*sent{l.start("a", "1m"), l.start("b", "1m"), l.start("c", "1m")}
		time.Sleep(10 * time.Minute) // until the maintenance has measured them
		for _, j := range jobs {
			j.wantEnd(t, jobend.Exited)
		}
		if n, bytes := l.b.StoresSize(); n != 3 || bytes != 3000 {
			t.Errorf("%d stores of %d bytes", n, bytes)
		}
	})
}

// TestImageIsTriedAgain checks that a builder whose image is missing pulls it without a job, and is then ready.
func TestImageIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		said := func(when string, missing, there int) {
			t.Helper()
			log := l.log.String()
			if m, n := strings.Count(log, "cannot provide the job image"), strings.Count(log, "the job image is there"); m != missing || n != there {
				t.Errorf("%s: the log says %d times that it is missing, and %d times that it is there\n%s", when, m, n, log)
			}
		}
		time.Sleep(2 * imageInterval)
		said("from the beginning", 0, 0)
		l.machines["n1"].loseImage(true)
		time.Sleep(10 * imageInterval)
		said("without it", 1, 0)
		l.machines["n1"].loseImage(false)
		time.Sleep(2 * imageInterval)
		said("with it", 1, 1)
	})
}

// TestNodeOfJob checks that a job's record, its events, its failure and the metrics contain its node.
func TestNodeOfJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		observed := new(observed)
		l := newLab(t, 1, func(o *Options) { o.Observer = observed })
		records := new(keptRecords)
		l.b.records = records
		m := l.machines["n1"]
		m.mu.Lock()
		m.broken = map[string]error{"Start": &engine.Failure{End: jobend.EngineGone, Call: "start the container", What: "The container engine went away.", Advice: "Send the job again."}}
		m.mu.Unlock()
		release, ok := l.b.Acquire()
		if !ok {
			t.Fatal("no slot is free")
		}
		ctx, cancel := context.WithTimeout(t.Context(), tooLong)
		defer cancel()
		job := l.b.Start(ctx, commandOf("a 1s"), "", release)
		var events eventLog
		if err := job.Follow(ctx, &events); err != nil {
			t.Error(err)
		}
		last := job.Wait()
		if want := "On node n1 the container engine went away."; last.Response.Error != want {
			t.Errorf("its client got %q, want %q", last.Response.Error, want)
		}
		if !strings.Contains(events.String(), `{"type":"node","name":"n1"}`) {
			t.Errorf("its events are %s", events.String())
		}
		if failed := observed.take(); len(failed) != 1 || failed[0] != "n1 start the container" {
			t.Errorf("what has failed is counted as %q", failed)
		}
		records.mu.Lock()
		defer records.mu.Unlock()
		if end := records.all[len(records.all)-1]; end.Node != "n1" || end.Reason != "on node n1 the container engine went away" {
			t.Errorf("its record is of node %q, and why it failed: %q", end.Node, end.Reason)
		}
		if during := records.all[len(records.all)-2]; !during.Runs() || during.Node != "n1" {
			t.Errorf("while it runs, its record is of node %q", during.Node)
		}
	})
}

// An eventLog records a job's messages.
type eventLog struct{ strings.Builder }

func (l *eventLog) WriteMessages(messages []schemas.Message) error {
	for _, m := range messages {
		l.Write(append(m.Event, '\n'))
	}
	return nil
}
