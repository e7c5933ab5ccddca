package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/schemas"
)

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

// TestPlatformsAtStart sends jobs to a builder that has just started, as clients do that wait for it. It takes longer to use a
// node of another platform than one of its own, because it fetches the program from there. Jobs for that platform wait for it.
func TestPlatformsAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 0, func(o *Options) {
			o.Cluster.Program = func(_ context.Context, address, platform string) (string, error) {
				if address == "arm" {
					time.Sleep(settleTime - 2*findInterval)
				}
				return "for " + platform, nil
			}
		})
		send := func(arch string) *sent {
			request := commandOf(arch + " 1m")
			request.Arch = arch
			return l.send(t.Context(), request)
		}
		own, arm, other := send(""), send("aarch64-linux"), send("riscv64-linux")
		l.setFound("twin", "arm")
		time.Sleep(findInterval)
		if got := nodesOf(own, arm, other); got != "n1 - -" {
			t.Errorf("with one node, they run on %q", got)
		}
		time.Sleep(settleTime)
		if got := nodesOf(own, arm, other); got != "n1 arm n1" { // an emulator may be there
			t.Errorf("with both, they run on %q", got)
		}
		own.wantEnd(t, jobend.Exited)
		late := send("riscv64-linux")
		if got := late.node(); got != "n1" {
			t.Errorf("a later one runs on %q", got)
		}
		for _, job := range []*sent{arm, other, late} {
			job.wantEnd(t, jobend.Exited)
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
		if log := jobs[0].log.String(); !strings.Contains(log, "iglu: no node for linux/arm64 can run jobs now: the job waits for one\n") {
			t.Errorf("its log does not say why it waits:\n%s", log)
		}
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
