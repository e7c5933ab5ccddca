package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// litter makes a container that runs, one that does not, a volume and a network, with a
// label or without, and returns their names.
func litter(t *testing.T, image, label string) (names []string) {
	t.Helper()
	name := func(what string) string {
		names = append(names, "iglu-litter-"+what+"-"+strings.ToLower(rand.Text()[:10]))
		return names[len(names)-1]
	}
	network, volume, created, running := name("network"), name("volume"), name("created"), name("running")
	docker(t, "network", "create", "--label", label, network)
	docker(t, "volume", "create", "--label", label, volume)
	docker(t, "create", "--label", label, "--name", created, "--volume", volume+":/v", image, "attack", "serve")
	docker(t, "run", "--detach", "--label", label, "--name", running, "--network", network, image, "attack", "serve")
	t.Cleanup(func() {
		exec.Command("docker", "rm", "--force", created, running).Run()
		exec.Command("docker", "volume", "rm", volume).Run()
		exec.Command("docker", "network", "rm", network).Run()
	})
	return names
}

// there returns which of some things are on the engine.
func there(names []string) (found []string) {
	for _, name := range names {
		if exec.Command("docker", "inspect", name).Run() == nil {
			found = append(found, name)
		}
	}
	return found
}

// TestCleanup has a builder's start, and then the command, remove what carries its
// instance's label, and nothing else.
func TestCleanup(t *testing.T) {
	image := attackImage(t)
	instance := "test-" + strings.ToLower(rand.Text()[:10])
	others := append(litter(t, image, "sh.iglu.builder.instance="+instance+"-2"), litter(t, image, "some=label")...)
	start := func() string {
		s := serverWith(t, func(s *settings) { s.instance = instance })
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		s.ended <- nil // for the clean-up
		return s.log.String()
	}
	clean := func() string {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"cleanup", "--instance", instance}, nil, &stdout, &stderr); code != 0 {
			t.Errorf("exit code %d: %s", code, &stderr)
		}
		return stdout.String()
	}
	for name, remove := range map[string]func() string{"start": start, "command": clean} {
		t.Run(name, func(t *testing.T) {
			mine := litter(t, image, "sh.iglu.builder.instance="+instance)
			told := remove()
			if left := there(mine); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if n := strings.Count(told, "removed "); n != len(mine) {
				t.Errorf("%d removals are told:\n%s", n, told)
			}
			if diff := cmp.Diff(others, there(others)); diff != "" {
				t.Errorf("things of others (-before +after):\n%s", diff)
			}
		})
	}
	t.Setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"cleanup"}, nil, &stdout, &stderr); code != 1 || !strings.Contains(stderr.String(), "engine does not answer") {
		t.Errorf("without an engine: exit code %d, %s", code, &stderr)
	}
}

// TestBuilderKilled kills a builder while its job runs: the job ends by itself, and the
// builder's next life removes it.
func TestBuilderKilled(t *testing.T) {
	s := startProcess(t, "--job-image", world.image, "--allowed-commands", "sh")
	c := connect(t, s)
	c.send(jsonOf(t, command("sh -c 'echo begun; sleep 1000'")))
	c.waitFor(`"begun"`)
	container := s.containers()[0]
	s.kill()
	if err := poll(time.Minute, func() bool { return docker(t, "inspect", "--format", "{{.State.Status}}", container) == "exited" }); err != nil {
		t.Errorf("the job goes on: %v", err)
	}
	startProcessAs(t, s.instance, "", "--job-image", world.image)
	if left := s.containers(); len(left) > 0 {
		t.Errorf("containers left: %v", left)
	}
}

// TestEngineKilled kills an engine: the job that it ran ends by itself, and when the engine
// is back, so is the builder.
func TestEngineKilled(t *testing.T) {
	t.Parallel() // it takes as long as the job waits for a sign of life
	e := startEngine(t)
	importTool(t, e.host(), "tool:1")
	onEngine := func(args ...string) string { return docker(t, append([]string{"--host", e.host()}, args...)...) }
	s := startProcessAs(t, "test", e.host(), "--job-image", "tool:1", "--job-network", "none", "--allowed-commands", "tool")
	c := connect(t, s)
	c.send(jsonOf(t, command("tool serve --listen 127.0.0.1:0")))
	c.waitFor("msg=listening")
	pid := onEngine("inspect", "--format", "{{.State.Pid}}", onEngine("container", "ls", "--quiet"))
	program := filepath.Join("/proc", pid, "exe")
	e.daemon.Process.Kill()
	e.daemon.Wait()
	if _, err := os.Readlink(program); err != nil {
		t.Fatalf("the job ended with the engine: %v", err) // and there is nothing to test
	}
	if err := poll(2*time.Minute, func() bool { _, err := os.Readlink(program); return err != nil }); err != nil {
		t.Errorf("the job goes on: %v", err)
	}
	e.start()
	wantExit(t, do(t, s, command("tool --help")), 0)
	if left := onEngine("container", "ls", "--all", "--quiet"); left != "" {
		t.Errorf("containers left: %s", left)
	}
}
