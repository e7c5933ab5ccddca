//go:build integration

package faults

import (
	"crypto/rand"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// litter makes a running container, a stopped one, a volume and a network, and returns their names. If label
// is empty, they have none.
func litter(t *testing.T, e *fixture.Engine, label string) (names []string) {
	t.Helper()
	image := e.AttackImage(t)
	name := func(what string) string {
		names = append(names, "iglu-litter-"+what+"-"+strings.ToLower(rand.Text()[:10]))
		return names[len(names)-1]
	}
	network, volume, created, running := name("network"), name("volume"), name("created"), name("running")
	e.Docker(t, "network", "create", "--label", label, network)
	e.CleanUp(t, "network", "rm", network)
	e.Docker(t, "volume", "create", "--label", label, volume)
	e.CleanUp(t, "volume", "rm", volume)
	e.Docker(t, "create", "--label", label, "--name", created, "--volume", volume+":/v", image, "attack", "serve")
	e.Docker(t, "run", "--detach", "--label", label, "--name", running, "--network", network, image, "attack", "serve")
	e.CleanUp(t, "rm", "--force", created, running)
	return names
}

// TestCleanup checks that the start of a builder removes nothing. The command cleanup then removes what has the
// label of its instance and nothing else. While a container is running, it removes nothing.
func TestCleanup(t *testing.T) { fixture.OnEngines(t, cleanUp) }

func cleanUp(t *testing.T, e *fixture.Engine) {
	instance := "test-" + strings.ToLower(rand.Text()[:10])
	others := append(litter(t, e, "sh.iglu.builder.instance="+instance+"-2"), litter(t, e, "some=label")...)
	mine := litter(t, e, "sh.iglu.builder.instance="+instance)
	running := mine[len(mine)-1]
	started := e.Server(t, func(s *server.Settings) { s.Instance = instance })
	output, err := cleanUpAt(e.Host, instance)
	if err == nil || !strings.Contains(output, "containers of jobs are running: "+running+"\nhint: ") {
		t.Errorf("while a container runs: %v: %s", err, output)
	}
	if diff := cmp.Diff(mine, e.There(mine)); diff != "" {
		t.Errorf("after a start (-before +after):\n%s", diff)
	}
	started.Cancel()
	e.Docker(t, "stop", "--time", "1", running)
	if output, err = cleanUpAt(e.Host, instance); err != nil {
		t.Errorf("%v: %s", err, output)
	}
	if left := e.There(mine); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if n := strings.Count(output, "removed "); n != len(mine) {
		t.Errorf("%d removals are reported:\n%s", n, output)
	}
	if diff := cmp.Diff(others, e.There(others)); diff != "" {
		t.Errorf("foreign objects (-before +after):\n%s", diff)
	}
}

// TestCleanupWithoutEngine runs the command cleanup without an engine.
func TestCleanupWithoutEngine(t *testing.T) {
	output, err := cleanUpAt("unix:///nonexistent/docker.sock", "test")
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(output, "engine does not answer") {
		t.Errorf("%v: %s", err, output)
	}
}

// cleanUpAt runs the command cleanup on the engine at a host and returns its output. An empty host is the
// machine's own engine.
func cleanUpAt(host, instance string) (string, error) {
	cleanup := exec.Command(fixture.Env.Program, "cleanup", "--instance", instance)
	cleanup.Env = (&fixture.Engine{Host: host}).Environ()
	output, err := cleanup.CombinedOutput()
	return string(output), err
}

// TestBuilderKilled kills a builder while its job runs. The job ends without it, and after a restart the builder
// removes the job's container.
func TestBuilderKilled(t *testing.T) { fixture.OnEngines(t, builderKilled) }

func builderKilled(t *testing.T, e *fixture.Engine) {
	instance := "test-" + strings.ToLower(rand.Text()[:10])
	s := e.Process(t, instance, "--job-image", fixture.Env.Image, "--allowed-commands", "sh")
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; sleep 1000'")))
	c.WaitFor(`"begun"`)
	container := s.JobContainer(t)
	s.Kill()
	if err := fixture.AwaitEngine(e.Host, time.Minute, func() bool { return e.Docker(t, "inspect", "--format", "{{.State.Status}}", container) == "exited" }); err != nil {
		t.Errorf("the job is still running: %v", err)
	}
	e.Process(t, instance, "--job-image", fixture.Env.Image)
	if err := s.AwaitNoContainers(time.Minute); err != nil { // the builder removes a container only some time after its end
		t.Error(err)
	}
}
