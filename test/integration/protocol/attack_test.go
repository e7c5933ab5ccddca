//go:build integration

package protocol

import (
	"net"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestEmptyProgramVolume removes the volume with the builder's program and the jobs' network, as docker system prune
// does, and then replaces the volume with an empty one.
func TestEmptyProgramVolume(t *testing.T) {
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) {
		// Jobs of other programs must not run at the same time: see fixture.OtherJobs.
		s := e.Server(t, func(s *server.Settings) { s.AllowedCommands = []string{"nix"} })
		fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0)
		volume := s.OnEngine("volume")[0]
		fixture.WantNoContainers(t, s)
		e.Docker(t, "volume", "rm", volume)
		for _, network := range s.OnEngine("network") {
			e.Docker(t, "network", "rm", network)
		}
		fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0)
		fixture.WantNoContainers(t, s)
		e.Docker(t, "volume", "rm", volume)
		e.Docker(t, "volume", "create", "--label", "sh.iglu.builder.instance="+s.Instance, volume)
		if got := fixture.Do(t, s, fixture.Command("nix --version")); len(got.Messages) != 2 {
			t.Errorf("got %v", got.Messages)
		}
		fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0)
	})
}

// TestOddImage runs jobs in an image with variables that conflict with the builder's, and without the folder for
// temporary files.
func TestOddImage(t *testing.T) { fixture.OnEngines(t, oddImage) }

func oddImage(t *testing.T, e *fixture.Engine) {
	image := "odd-test:" + strings.ToLower(fixture.Env.Server.Instance)
	e.ChangeImage(t, fixture.Env.Image, image, "ENV GIT_ASKPASS=/bin/false GIT_SSH_COMMAND=/bin/false GIT_ALLOW_PROTOCOL=ext "+
		"GIT_TERMINAL_PROMPT=1 IGLU_BRANCH=no-such-branch IGLU_EXTRA_ARGS=--no-such-flag TMPDIR=/no/such/folder",
		`ENTRYPOINT ["/bin/false"]`, "WORKDIR /nowhere", "USER nobody")
	s := e.Server(t, func(s *server.Settings) { s.JobImage = image })
	g := &fixture.Env.Git
	got := fixture.Do(t, s, g.WithKey(fixture.Build(g.Private+"/hello", "nix build -L"), fixture.GitPassword))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, fixture.Hello)
	got = fixture.Do(t, s, g.WithKey(fixture.Build(g.SSH+"/hello", "nix build -L"), g.Key))
	fixture.WantExit(t, got, 0)
}

// TestKeyForOneHost runs a job that tries to use its SSH key for another host.
func TestKeyForOneHost(t *testing.T) {
	g := &fixture.Env.Git
	host, _, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimSuffix(g.SSH, g.Root), "ssh://"))
	if err != nil {
		t.Fatal(err)
	}
	// The same server, by another name.
	other := strings.Replace(g.SSH, "ssh://"+host, "ssh://root@[::ffff:"+host+"]", 1)
	j := g.WithKey(fixture.Build(g.SSH+"/hello", "git ls-remote "+other+"/hello"), g.Key)
	s := fixture.ServerWith(t, func(s *server.Settings) { s.AllowedCommands = []string{"git"} })
	got := fixture.Do(t, s, j)
	fixture.WantExit(t, got, 128)
	fixture.WantLine(t, got, "Permission denied")
}
