//go:build integration

package protocol

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/fixture"
)

// TestStackJobs runs jobs in the stack's format with only the required fields, and with empty strings in all others.
func TestStackJobs(t *testing.T) {
	const environment = `sh -c 'echo "$NIX_CONFIG"; echo in $PWD; ls -A'`
	least := fixture.Object{"git_config": fixture.Object{"noclone": true}, "build_options": fixture.Object{"command": environment}, "cachix_config": fixture.Object{}}
	want := []string{"iglu: running " + environment, "extra-experimental-features = nix-command flakes", "tarball-ttl = 0",
		"max-jobs = 1", "cores = 1", "", "in /source"}
	s := fixture.ServerWith(t, func(s *server.Settings) { s.Limits.CPUs.Fixed = 1 })
	for name, row := range map[string]fixture.Object{"least": least, "empty": fixture.StackRow(fixture.Command(environment))} {
		t.Run(name, func(t *testing.T) {
			c := fixture.ConnectIn(t, schemas.Stack, s)
			c.Send(fixture.JSONOf(t, row))
			got := c.Finish()
			fixture.WantExit(t, got, 0)
			// Whether Nix gets a file for its progress messages depends on its version.
			lines := slices.DeleteFunc(fixture.WithoutHead(t, s, got.Lines), func(line string) bool { return strings.HasPrefix(line, "json-log-path = ") })
			if diff := cmp.Diff(want, lines); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFullStackJob runs a job in the stack's format with every property set.
func TestFullStackJob(t *testing.T) {
	cache, other := fixture.NewCache(t), fixture.NewCache(t)
	j := cache.Pushing(fixture.Env.Git.WithKey(fixture.Build(fixture.Env.Git.Private+"/hello",
		`sh -c 'echo "$NIX_CONFIG"; echo "[$0][$1]"; nix-build --no-out-link'`), fixture.GitPassword))
	cores, maxJobs := schemas.Integer(1), schemas.Integer(2)
	j.Arch, j.Git.Branch = fixture.System, "side"
	j.BuildOptions.Cores, j.BuildOptions.MaxJobs, j.BuildOptions.KeepGoing = &cores, &maxJobs, true
	j.BuildOptions.ExtraArgs = "one 'two three'"
	j.BuildOptions.Substituters = []string{cache.URL, other.URL}
	j.BuildOptions.TrustedPublicKeys = []string{"default:" + fixture.PublicKey(t), "other-1:" + fixture.PublicKey(t)}
	// The settings of the store are in root's environment. For other users they are settings of the daemon.
	s := fixture.ServerWith(t, func(s *server.Settings) { s.JobUser = orchestrator.UserRoot })
	got := fixture.DoIn(t, schemas.Stack, s, j)
	fixture.WantExit(t, got, 0)
	for _, line := range []string{
		"iglu: commit " + fixture.Head(t, j), "cores = 1", "max-jobs = 2", "keep-going = true", "[one][two three]",
		"extra-substituters = " + cache.URL + " " + other.URL,
		"extra-trusted-public-keys = default:" + fixture.PublicKey(t) + " other-1:" + fixture.PublicKey(t),
	} {
		fixture.WantLine(t, got, line)
	}
	fixture.WantTotal(t, got, 1, 0, 0)
	fixture.WantNames(t, cache, []string{"side"})
	fixture.WantNames(t, other, nil)

	j.Arch = "sparc-linux"
	got = fixture.DoIn(t, schemas.Stack, fixture.Env.Server, j)
	want := []string{fixture.Accepted, `{"error":"The job is for \"sparc-linux\", but this builder's engine runs ` + fixture.System +
		`.","msg":"Send the job to a builder for that machine, or leave out system (builder.arch in the Iglu stack's format).","jobStatus":"failed"}`}
	if diff := cmp.Diff(want, got.Messages); diff != "" || got.CloseCode != 1011 || len(got.Lines) != 2 {
		t.Errorf("close code %d, lines %q, messages (-want +got):\n%s", got.CloseCode, got.Lines, diff)
	}
}

// TestPushInEachForm pushes in each wire format, to a cache that accepts the paths and to one that refuses them.
func TestPushInEachForm(t *testing.T) {
	t.Parallel()
	s := fixture.OwnServer(t)
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		c := fixture.NewCache(t)
		got := fixture.DoIn(t, format, s, c.Pushing(fixture.SmallJob()))
		fixture.WantExit(t, got, 0)
		fixture.WantTotal(t, got, 2, 0, 0)
		fixture.WantNames(t, c, fixture.BothNames)

		c.Clear()
		c.Misbehave(devcache.On("POST", fixture.UploadBegin, devcache.Answer(403, "")))
		fixture.WantUnpushed(t, fixture.DoIn(t, format, s, c.Pushing(fixture.SmallJob())), "the cache does not accept the API key (HTTP 403)")
		fixture.WantNames(t, c, nil)
	})
}
