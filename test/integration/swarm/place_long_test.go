//go:build integration && long

package swarm

import (
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/lab"
)

// A visit is a job that has run on a node.
type visit struct {
	repository int
	node       *lab.Node
	sent       time.Time
	placed     time.Time // when its client learned the node
	began, end int64     // the start and the end of its command in nanoseconds, by the machine's clock
}

// TestThirtyJobs sends 30 jobs of six repositories to three nodes with two slots each. At most six run at a time. The
// jobs of a repository run on the node of its first job, except those that have waited too long for that node.
func TestThirtyJobs(t *testing.T) {
	s := deploy(t, nil) // two slots per node
	var urls []string
	for range 6 {
		urls = append(urls, s.repository())
	}
	var mu sync.Mutex
	var visits []visit
	round := func(jobs int) {
		var clients sync.WaitGroup
		for n := range jobs {
			c := fixture.Connect(t, s.Server)
			clients.Go(func() {
				v := s.visit(c, n%6, urls[n%6])
				mu.Lock()
				defer mu.Unlock()
				visits = append(visits, v)
			})
		}
		clients.Wait()
	}
	round(6) // assigns each repository to a node
	round(24)
	if t.Failed() || len(visits) != 30 {
		t.Fatalf("%d jobs have ended", len(visits))
	}
	t.Logf("at most %d jobs ran at a time", atOnce(visits))
	if n := atOnce(visits); n > 6 || n < 4 {
		t.Errorf("%d jobs ran at the same time", n)
	}
	slices.SortFunc(visits, func(a, b visit) int { return a.placed.Compare(b.placed) })
	known := make(map[int][]*lab.Node)
	for _, v := range visits {
		seen := known[v.repository]
		if waited := v.placed.Sub(v.sent); len(seen) > 0 && !slices.Contains(seen, v.node) && waited < nodes.HomeTimeout {
			t.Errorf("a job of a repository that was on %s is on %s, after %s", seen[0].Name, v.node.Name, waited)
		}
		known[v.repository] = append(seen, v.node)
	}
}

// visit sends a job of a repository, and waits for its end.
func (s *stack) visit(c *fixture.Client, repository int, url string) visit {
	v := visit{repository: repository, sent: time.Now()}
	j := &job{Client: c, s: s}
	j.Send(fixture.JSONOf(s.t, fixture.Build(url, "sh -c 'echo begun; date +at-%s%N; sleep 1; date +at-%s%N; exit 3'")))
	j.awaitBegun()
	v.node, v.placed = j.node, j.placed
	got := j.Finish()
	fixture.WantLast(s.t, got, 3)
	for _, line := range got.Lines {
		if at, ok := cutPrefixInt(line, "at-"); ok {
			if v.began == 0 {
				v.began = at
			}
			v.end = at
		}
	}
	return v
}

func cutPrefixInt(line, prefix string) (int64, bool) {
	if len(line) < len(prefix) || line[:len(prefix)] != prefix {
		return 0, false
	}
	n, err := strconv.ParseInt(line[len(prefix):], 10, 64)
	return n, err == nil
}

// atOnce returns the largest number of commands that ran at the same time.
func atOnce(visits []visit) (most int) {
	for _, v := range visits {
		n := 0
		for _, other := range visits {
			if other.began <= v.began && v.began < other.end {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
