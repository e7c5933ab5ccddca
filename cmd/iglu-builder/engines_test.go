package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	containertypes "github.com/docker/docker/api/types/container"

	"iglu.sh/builder/orchestrator"
)

// A site is an engine that tests run on: the machine's Docker, and a Podman of the tests'
// own. What an engine has a part in is tested on both by the same tests; where Podman cannot
// do the same, the test says what it does instead, and so does docs/engines.md.
type site struct {
	name   string
	host   string // as in DOCKER_HOST; empty for the machine's own
	attack string // name of an image with the program of testdata/attack, as the command attack

	imported sync.Once // attack
}

var dockerSite = &site{name: "docker"}

// podmanSite starts Podman when the first test wants it; stopSites ends it.
var podmanSite = sync.OnceValues(func() (*site, error) {
	p, err := newPodman()
	if err != nil {
		return nil, err
	}
	stopPodman = p.remove
	if err := p.start(); err != nil {
		return nil, err
	}
	return &site{name: "podman", host: p.host()}, loadJobImage(p.host())
})

var stopPodman func() error

// stopSites removes what the tests of engines have made for all of them.
func stopSites() error {
	var err error
	if dockerSite.attack != "" {
		err = exec.Command("docker", "image", "rm", dockerSite.attack).Run()
	}
	if stopPodman != nil {
		err = errors.Join(err, stopPodman())
	}
	return err
}

// onEngines runs a test on each engine, beside others.
func onEngines(t *testing.T, test func(t *testing.T, e *site)) {
	t.Helper()
	t.Parallel()
	onEnginesAlone(t, test)
}

// onEnginesAlone runs a test on each engine at once, beside no others.
func onEnginesAlone(t *testing.T, test func(t *testing.T, e *site)) {
	t.Helper()
	podman, err := podmanSite()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*site{dockerSite, podman} {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			test(t, e)
		})
	}
}

// An ownSite is an engine of a test's own, which it may stop and kill.
type ownSite struct {
	*site
	daemon interface {
		start() error
		stop(signal os.Signal) // returns when it has ended
		process() *os.Process
	}
}

// own starts an engine of the same kind.
func (e *site) own(t *testing.T) *ownSite {
	t.Helper()
	if e.isPodman() {
		p := ownPodman(t)
		return &ownSite{&site{name: e.name, host: p.host()}, p}
	}
	d := startEngine(t)
	return &ownSite{&site{name: e.name, host: d.host()}, d}
}

func (e *ownSite) stop(signal os.Signal) { e.daemon.stop(signal) }

func (e *ownSite) start(t *testing.T) {
	t.Helper()
	if err := e.daemon.start(); err != nil {
		t.Fatal(err)
	}
}

func (e *site) isPodman() bool { return e.name == "podman" }

// socket returns the name of the socket that the engine listens on.
func (e *site) socket() string {
	if e.host == "" {
		return "/var/run/docker.sock"
	}
	return strings.TrimPrefix(e.host, "unix://")
}

// docker runs Docker's own client on the engine and returns what it prints.
func (e *site) docker(t *testing.T, args ...string) string {
	t.Helper()
	return docker(t, append([]string{"--host", e.host}, args...)...)
}

// environ returns the environment of a program that is to use the engine.
func (e *site) environ() []string {
	if e.host == "" {
		return os.Environ()
	}
	return append(os.Environ(), "DOCKER_HOST="+e.host)
}

// cleanUp has Docker's client do something on the engine when the test has ended. What it is
// to remove may be gone.
func (e *site) cleanUp(t *testing.T, args ...string) {
	t.Cleanup(func() { exec.Command("docker", append([]string{"--host", e.host}, args...)...).Run() })
}

// changeImage makes an image of another with instructions of a Dockerfile.
func (e *site) changeImage(t *testing.T, from, to string, instructions ...string) {
	t.Helper()
	container := e.docker(t, "create", from, "true")
	defer e.docker(t, "rm", container)
	e.commit(t, container, to, instructions...)
	e.cleanUp(t, "image", "rm", to)
}

// commit makes an image of a container. What docker commit asks, Podman does not understand.
func (e *site) commit(t *testing.T, container, to string, instructions ...string) {
	t.Helper()
	c, err := engineAt(e.host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	options := containertypes.CommitOptions{Reference: to, Changes: instructions, Config: &containertypes.Config{}}
	if _, err := c.ContainerCommit(t.Context(), container, options); err != nil {
		t.Fatal(err)
	}
}

// ownServer starts a builder with no settings of its own for a test that runs beside others:
// it has a job at any time.
func ownServer(t *testing.T) *server {
	t.Helper()
	return serverWith(t, func(*settings) {})
}

// server starts a builder on the engine for one test.
func (e *site) server(t *testing.T, change func(*settings)) *server {
	t.Helper()
	return e.serverVia(t, e.host, change)
}

// serverVia is server with something in between, which listens at a host.
func (e *site) serverVia(t *testing.T, host string, change func(*settings)) *server {
	t.Helper()
	s := serverWith(t, func(s *settings) {
		s.engineHost = host
		change(s)
	})
	s.host = e.host
	return s
}

// process starts a builder on the engine in a process of its own.
func (e *site) process(t *testing.T, instance string, flags ...string) *server {
	t.Helper()
	s := startProcessAs(t, instance, e.host, flags...)
	s.host = e.host
	return s
}

// attackImage returns the name of the image attack.
func (e *site) attackImage(t *testing.T) string {
	t.Helper()
	e.imported.Do(func() {
		image := "attack-test:" + strings.ToLower(world.server.instance)
		importProgram(t, e.host, image, buildProgram(t, "attack"), "attack")
		e.attack = image
	})
	return e.attack
}

// attacker starts a builder whose jobs attack.
func (e *site) attacker(t *testing.T, change func(*settings)) *server {
	t.Helper()
	image := e.attackImage(t)
	return e.server(t, func(s *settings) {
		s.jobImage, s.allowedCommands = image, []string{"attack"}
		s.jobUser = orchestrator.UserRoot // who can do more
		change(s)
	})
}

// there returns which of some things are on the engine.
func (e *site) there(names []string) (found []string) {
	for _, name := range names {
		if exec.Command("docker", "--host", e.host, "inspect", name).Run() == nil {
			found = append(found, name)
		}
	}
	return found
}
