package orchestrator

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memengine"
)

// TestJobOf checks what the operator's settings are to a job's container.
func TestJobOf(t *testing.T) {
	for name, test := range map[string]struct {
		change func(o *Options, r *schemas.Request)
		want   func(job jobenv.Job) bool
	}{
		"all history":      {func(o *Options, _ *schemas.Request) { o.GitDepth = 0 }, func(job jobenv.Job) bool { return job.GitDepth == "" }},
		"one commit":       {func(o *Options, _ *schemas.Request) { o.GitDepth = 1 }, func(job jobenv.Job) bool { return job.GitDepth == "1" }},
		"a shared store":   {func(o *Options, _ *schemas.Request) { o.Stores.Mode = stores.Shared }, func(job jobenv.Job) bool { return job.StoreOfAll == "true" }},
		"another store":    {func(o *Options, _ *schemas.Request) { o.Stores.Mode = stores.Repository }, func(job jobenv.Job) bool { return job.StoreOfAll == "" }},
		"no flake's cache": {func(*Options, *schemas.Request) {}, func(job jobenv.Job) bool { return job.FlakeConfig == "" }},
		"a flake's cache":  {func(o *Options, _ *schemas.Request) { o.Nix.AcceptFlakeConfig = true }, func(job jobenv.Job) bool { return job.FlakeConfig == "true" }},
	} {
		options, request := Options{JobUser: UserNix}, secretRequest()
		test.change(&options, request)
		if job := jobOf(request, options); !test.want(job) {
			t.Errorf("%s: %+v", name, job)
		}
	}
}

// TestStoreSettings checks who gets the settings of the store: the daemon, if there is one, and root, who uses the store
// without it.
func TestStoreSettings(t *testing.T) {
	settings := []string{"build-dir = ", "extra-substituters = http://s\n", nixUnsandboxed}
	for _, test := range []struct {
		user         JobUser
		push         bool
		own, daemons bool // whether the job's own settings, and those of the daemon, have them
	}{
		{UserNix, false, false, true}, {UserNix, true, false, true}, {UserRoot, false, true, false}, {UserRoot, true, true, true},
	} {
		request := secretRequest()
		request.BuildOptions.Substituters, request.BuildOptions.Cachix.Push = []string{"http://s"}, test.push
		job := jobOf(request, Options{JobUser: test.user})
		addStoreConfig(&job, nixUnsandboxed)
		const ofAll = "tarball-ttl = 0\n"
		if !strings.Contains(job.NixConfig, ofAll) || (job.DaemonConfig != "") != test.daemons || strings.Contains(job.DaemonConfig, ofAll) != test.daemons {
			t.Errorf("%+v: settings of all jobs: %q, of the daemon: %q", test, job.NixConfig, job.DaemonConfig)
		}
		for _, setting := range settings {
			if strings.Contains(job.NixConfig, setting) != test.own || strings.Contains(job.DaemonConfig, setting) != test.daemons {
				t.Errorf("%+v: %q: %q, of the daemon: %q", test, setting, job.NixConfig, job.DaemonConfig)
			}
		}
	}
}

// TestLimits checks what a job may use of a machine on which two jobs run.
func TestLimits(t *testing.T) {
	for amount, want := range map[Amount]float64{{Share: 0.75}: 3, {Share: 1}: 4, {Fixed: 2, Share: 1}: 2, {Fixed: 6}: 6, {Fixed: 10}: 8} {
		if got := amount.of(8, 2); got != want {
			t.Errorf("%+v of 8: got %g, want %g", amount, got, want)
		}
	}
	// Engines do not start a container with less.
	small := Limits{Memory: Amount{Share: 0.01}, CPUs: Amount{Share: 0.01}}
	if got := small.memory(4<<30, 256); got != 64<<20 {
		t.Errorf("1 %% of 4 GiB among 256 jobs: got %d bytes, want 64 MiB", got)
	}
	if got := small.cpus(2, 256); got != 0.01 {
		t.Errorf("1 %% of 2 CPUs among 256 jobs: got %g, want 0.01", got)
	}
}

// TestHome checks that only jobs whose stores are kept by repository prefer the node that has the store.
func TestHome(t *testing.T) {
	for _, mode := range []stores.Mode{stores.Ephemeral, stores.Shared, stores.Repository} {
		for _, noClone := range []bool{false, true} {
			b, _, _ := builder(t, nil, func(o *Options) { o.Stores.Mode = mode })
			want := ""
			if mode == stores.Repository && !noClone {
				want = "a"
			}
			if got := b.needOf(&schemas.Request{Git: schemas.Git{Repository: "a", NoClone: noClone}}); got.Home != want || got.Platform != "" {
				t.Errorf("%v, without a clone: %t: %+v", mode, noClone, got)
			}
		}
	}
}

// TestContainers looks at the containers of jobs: a job that has lost a node has another name for its next container, and
// only one with a kept store keeps its caches there. The version of Nix that a job in a fresh store has reported is passed
// on; another job may have replaced Nix in its store.
func TestContainers(t *testing.T) {
	var spec engine.Spec
	reports := "2.34.8"
	b, _, _ := builder(t, func(p *memengine.Process) int {
		if p.Getenv(jobenv.Maintenance) != "" {
			return 1
		}
		spec = p.Spec
		jobwire.NewWriter(p.Stdout, p.Getenv(jobenv.EventsToken)).Send(jobwire.Record{Nix: reports})
		return ends(p, jobwire.End{})
	}, func(o *Options) {
		o.Stores = stores.Options{Instance: "test", Mode: stores.Repository, MaxBytes: 1 << 40, Folder: tempDir(t), Wait: time.Minute}
	})
	check := func(repository, nix string) {
		t.Helper()
		request := secretRequest()
		request.Git.Repository, request.Git.NoClone = repository, repository == ""
		b.build(t.Context(), request, io.Discard)
		b.background.Wait()
		if spec.Name == "" || slices.Contains(spec.Env, "XDG_CACHE_HOME="+jobenv.StoreCache) != (repository != "") || !slices.Contains(spec.Env, jobenv.NixVersion+"="+nix) {
			t.Errorf("of %q, with Nix %q: %+v", repository, nix, spec)
		}
		spec = engine.Spec{}
	}
	check("a", "") // nothing is known yet
	reports = "9.9.9"
	check("a", "2.34.8")
	check("", "2.34.8")
	reports = ""
	check("", "9.9.9")
	check("b", "9.9.9")

	r := &run{b: b, id: "id"}
	for slot, want := range []string{"iglu-job-test-id", "iglu-job-test-id-2", "iglu-job-test-id-3"} {
		if r.slot = slot; r.containerName() != want {
			t.Errorf("in slot %d it is %s", slot, r.containerName())
		}
	}
}
