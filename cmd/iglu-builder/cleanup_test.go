package main

import (
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// litter makes a container that runs, one that does not, a volume and a network, with a
// label or without, and returns their names.
func (e *site) litter(t *testing.T, label string) (names []string) {
	t.Helper()
	image := e.attackImage(t)
	name := func(what string) string {
		names = append(names, "iglu-litter-"+what+"-"+strings.ToLower(rand.Text()[:10]))
		return names[len(names)-1]
	}
	network, volume, created, running := name("network"), name("volume"), name("created"), name("running")
	e.docker(t, "network", "create", "--label", label, network)
	e.cleanUp(t, "network", "rm", network)
	e.docker(t, "volume", "create", "--label", label, volume)
	e.cleanUp(t, "volume", "rm", volume)
	e.docker(t, "create", "--label", label, "--name", created, "--volume", volume+":/v", image, "attack", "serve")
	e.docker(t, "run", "--detach", "--label", label, "--name", running, "--network", network, image, "attack", "serve")
	e.cleanUp(t, "rm", "--force", created, running)
	return names
}

// TestCleanup has a builder's start, and then the command, remove what carries its
// instance's label, and nothing else.
func TestCleanup(t *testing.T) { onEngines(t, cleanUp) }

func cleanUp(t *testing.T, e *site) {
	instance := "test-" + strings.ToLower(rand.Text()[:10])
	others := append(e.litter(t, "sh.iglu.builder.instance="+instance+"-2"), e.litter(t, "some=label")...)
	start := func() string {
		s := e.server(t, func(s *settings) { s.instance = instance })
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		s.ended <- nil // for the clean-up
		return s.log.String()
	}
	clean := func() string {
		output, err := cleanUpAt(e.host, instance)
		if err != nil {
			t.Errorf("%v: %s", err, output)
		}
		return output
	}
	for name, remove := range map[string]func() string{"start": start, "command": clean} {
		t.Run(name, func(t *testing.T) {
			mine := e.litter(t, "sh.iglu.builder.instance="+instance)
			told := remove()
			if left := e.there(mine); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if n := strings.Count(told, "removed "); n != len(mine) {
				t.Errorf("%d removals are told:\n%s", n, told)
			}
			if diff := cmp.Diff(others, e.there(others)); diff != "" {
				t.Errorf("things of others (-before +after):\n%s", diff)
			}
		})
	}
}

// TestCleanupWithoutEngine has the command find none.
func TestCleanupWithoutEngine(t *testing.T) {
	output, err := cleanUpAt("unix:///nonexistent/docker.sock", "test")
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(output, "engine does not answer") {
		t.Errorf("%v: %s", err, output)
	}
}

// cleanUpAt runs the command on an engine, which may be the machine's own, and returns what
// it says.
func cleanUpAt(host, instance string) (string, error) {
	cleanup := exec.Command(world.program, "cleanup", "--instance", instance)
	cleanup.Env = (&site{host: host}).environ()
	output, err := cleanup.CombinedOutput()
	return string(output), err
}

// TestBuilderKilled kills a builder while its job runs: the job ends by itself, and the
// builder's next life removes it.
func TestBuilderKilled(t *testing.T) { onEngines(t, builderKilled) }

func builderKilled(t *testing.T, e *site) {
	instance := "test-" + strings.ToLower(rand.Text()[:10])
	s := e.process(t, instance, "--job-image", world.image, "--allowed-commands", "sh")
	c := connect(t, s)
	c.send(jsonOf(t, command("sh -c 'echo begun; sleep 1000'")))
	c.waitFor(`"begun"`)
	container := s.containers()[0]
	s.kill()
	if err := poll(time.Minute, func() bool { return e.docker(t, "inspect", "--format", "{{.State.Status}}", container) == "exited" }); err != nil {
		t.Errorf("the job goes on: %v", err)
	}
	e.process(t, instance, "--job-image", world.image)
	wantNoContainers(t, s)
}

// TestEngineKilled kills an engine: the job that it ran ends by itself, and when the engine
// is back, so is the builder.
func TestEngineKilled(t *testing.T) { onEngines(t, engineKilled) }

func engineKilled(t *testing.T, shared *site) {
	e := shared.own(t)
	importTool(t, e.host, "tool:1")
	s := e.process(t, "test", "--job-image", "tool:1", "--job-network", "none", "--allowed-commands", "tool")
	c := connect(t, s)
	c.send(jsonOf(t, command("tool serve --listen 127.0.0.1:0")))
	c.waitFor("msg=listening")
	pid := e.docker(t, "inspect", "--format", "{{.State.Pid}}", e.docker(t, "container", "ls", "--quiet"))
	program := filepath.Join("/proc", pid, "exe")
	e.stop(syscall.SIGKILL)
	if _, err := os.Readlink(program); err != nil && !e.isPodman() { // whose end the job sees at once
		t.Fatalf("the job ended with the engine: %v", err) // and there is nothing to test
	}
	if err := poll(2*time.Minute, func() bool { _, err := os.Readlink(program); return err != nil }); err != nil {
		t.Errorf("the job goes on: %v", err)
	}
	e.start(t)
	wantExit(t, do(t, s, command("tool --help")), 0)
	wantEmpty(t, e)
}
