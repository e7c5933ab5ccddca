package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/memengine"
)

// A view is one server's connection to an engine that several servers use. A test can disconnect it.
type view struct {
	*memengine.Engine
	away atomic.Bool
}

func (v *view) Info(ctx context.Context) (engine.Info, error) {
	if v.away.Load() {
		return engine.Info{}, errAway
	}
	return v.Engine.Info(ctx)
}

// TestTwoServers lets two servers of one instance use the same two nodes, by mistake, with 30 jobs of four repositories
// each. Sometimes a server loses the connection to one node, and its jobs there run once more. Each job ends by itself, no
// two jobs use a store at once, and nothing is left on the engines.
func TestTwoServers(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { twoServers(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func twoServers(t *testing.T, r *rand.Rand) {
	c := &clock{outlives: jobenv.Outlives / 2}
	t.Cleanup(func() { time.Sleep(jobenv.Outlives) })
	var mu sync.Mutex
	users := make(map[string]string) // containers, by the engines and stores that they have
	shared := make(map[string]*memengine.Engine)
	for _, name := range []string{"n1", "n2"} {
		e := memengine.New(func(p *memengine.Process) int {
			store := name + " " + p.Spec.Store.Name
			mu.Lock()
			if other := users[store]; other != "" {
				t.Errorf("%s and %s have %s at once", other, p.Spec.Name, store)
			}
			users[store] = p.Spec.Name
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				delete(users, store)
			}()
			if p.Getenv(jobenv.Maintenance) != "" {
				fmt.Fprintln(p.Stdout, 1000)
				return 0
			}
			return c.run(p)
		})
		e.Machine.ID, e.Machine.Name, e.Machine.Platform = "ID-"+name, name, ownPlatform
		shared[name] = e
	}
	var servers []*lab
	var views []map[string]*view
	for range 2 {
		seen := map[string]*view{"n1": {Engine: shared["n1"]}, "n2": {Engine: shared["n2"]}}
		views = append(views, seen)
		servers = append(servers, newLab(t, 2, func(o *Options) {
			o.RetryLost, o.Stores.Wait = true, time.Hour
			o.Cluster.Open = func(address string) (engine.Engine, error) {
				if seen[address] == nil {
					return nil, errors.New("it is no address of a node")
				}
				return seen[address], nil
			}
		}))
	}
	var jobs []*sent
	for n := range 30 {
		for _, server := range servers {
			repository, takes := fmt.Sprint("repository-", r.IntN(4)), time.Duration(1+r.IntN(90))*time.Second
			jobs = append(jobs, server.start(repository, takes.String()))
		}
		if n%10 == 5 {
			v := views[r.IntN(2)]["n1"] // always n1: a job that loses two nodes ends
			v.away.Store(true)
			time.AfterFunc(time.Minute, func() { v.away.Store(false) })
		}
		time.Sleep(time.Duration(r.IntN(40)) * time.Second)
	}
	lost := 0
	for _, j := range jobs {
		j.wantEnd(t, jobend.Exited)
		lost += strings.Count(j.log.String(), "runs once more")
	}
	if lost == 0 {
		t.Error("no job has lost its node")
	}
	time.Sleep(time.Minute)
	for name, e := range shared {
		if left := names(t, e); left != "" {
			t.Errorf("left on %s: %s", name, left)
		}
	}
	t.Logf("%d of %d jobs ran once more", lost, len(jobs))
}
