//go:build integration

package isolation

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// A bystander is a container with an HTTP server that does not belong to the builder.
type bystander struct {
	t       *testing.T
	id      string
	address string
}

func startBystander(t *testing.T, e *fixture.Engine, network string) *bystander {
	t.Helper()
	b := &bystander{t: t, id: e.Docker(t, "run", "--detach", "--network", network, e.AttackImage(t), "attack", "serve")}
	e.CleanUp(t, "rm", "--force", b.id)
	ip := e.Docker(t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", b.id)
	b.address = ip + ":8080"
	if err := fixture.AwaitListener(b.address); err != nil {
		t.Fatalf("the bystander does not answer: %v", err)
	}
	return b
}

// ask returns nil if the bystander answers its host.
func (b *bystander) ask() error {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + b.address)
	if err == nil {
		response.Body.Close()
	}
	return err
}

// TestNoWayOut runs jobs that try to break out of their container in every way. Each attempt is also made in a
// container with weaker settings, where it must succeed. This shows that the builder's settings stop it.
func TestNoWayOut(t *testing.T) { fixture.OnEngines(t, noWayOut) }

func noWayOut(t *testing.T, e *fixture.Engine) {
	image := e.AttackImage(t)
	s := fixture.Attacker(t, e, func(*server.Settings) {})
	wantRefused(t, fixture.Do(t, s, fixture.Command("attack environ"))) // the job has also made the network
	network := s.OnEngine("network")[0]
	sibling := startBystander(t, e, network)
	// The privileges of --privileged that an engine in a container can give.
	weak := strings.Fields("--cap-add ALL --cap-drop SYS_RESOURCE --security-opt seccomp=unconfined " +
		"--security-opt systempaths=unconfined --security-opt apparmor=unconfined")
	rawSockets := []string{"--cap-add", "NET_RAW"} // the default on Docker
	type attempt struct {
		command string   // an argument of attack each
		weaker  []string // flags of docker run with which it succeeds
		open    bool     // it succeeds on Podman: see docs/engines.md
	}
	attempts := []attempt{
		{"proc-sys", weak, false},
		{"mount", weak, false},
		{"mount-proc", weak, false},
		{"user-namespace", weak, true},
		{"network-namespace", weak, false},
		{"device", append(slices.Clone(weak), "--device-cgroup-rule", "c *:* rwm"), false},
		{"privileges", nil, false},
		{"raw-socket", rawSockets, false},
		{"packet-socket", rawSockets, false},
		{"environ", nil, false},
		{"memory-of-1", nil, false},
		{"kernel-log", weak, false},
		{"engine-socket", []string{"--volume", e.Socket() + ":/var/run/docker.sock"}, false},
		{"dial," + sibling.address, []string{"--network", "container:" + sibling.id}, true},
	}
	if e.IsPodman() {
		attempts = append(attempts, attempt{"dial," + startBystander(t, e, defaultNetwork(e)).address, nil, true})
	} else { // on Podman these sometimes succeed and sometimes not
		attempts = append(attempts, attempt{"vsock", weak, false}, attempt{"io-uring", weak, false})
	}
	// Podman's API for Docker ignores the flags that would let these succeed.
	onlyInJobs := []string{"proc-sys", "device"}
	weaker := make(map[string][]string) // the attempts by their weaker settings
	job := "attack each"
	for _, attempt := range attempts {
		job += " " + attempt.command
		if e.IsPodman() && slices.Contains(onlyInJobs, attempt.command) {
			continue
		}
		if attempt.weaker == nil { // runs as the container's first process, which may read its own memory
			name, arg, _ := strings.Cut(attempt.command, ",")
			e.Docker(t, "run", "--rm", image, "attack", name, arg)
			continue
		}
		settings := strings.Join(attempt.weaker, "\n")
		weaker[settings] = append(weaker[settings], attempt.command)
	}
	for settings, commands := range weaker {
		args := slices.Concat([]string{"run", "--rm"}, strings.Split(settings, "\n"), []string{image, "attack", "each"}, commands)
		if printed := e.Docker(t, args...); strings.Count(printed, ": succeeded") != len(commands) {
			t.Errorf("with %q, of %q:\n%s", settings, commands, printed)
		}
	}
	got := fixture.Do(t, s, fixture.Command(job))
	fixture.WantExit(t, got, 0)
	lines := slices.DeleteFunc(got.Lines, func(line string) bool { return strings.HasPrefix(line, "iglu: ") })
	for i, attempt := range attempts {
		name, _, _ := strings.Cut(attempt.command, ",")
		want := name + ": refused: "
		if attempt.open && e.IsPodman() {
			want = name + ": succeeded"
		}
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("%s, want %s:\n%s", attempt.command, want, strings.Join(lines, "\n"))
		}
	}
	e.Docker(t, "rm", "--force", sibling.id) // before the network
}

// TestNoWayToNeighbour runs jobs that connect to containers on the default network and on another one. On Podman they can:
// see docs/engines.md.
func TestNoWayToNeighbour(t *testing.T) {
	t.Parallel()
	e := fixture.DockerEngine()
	image := e.AttackImage(t)
	s := fixture.Attacker(t, e, func(*server.Settings) {})
	other := "other-" + s.Instance
	e.Docker(t, "network", "create", other)
	e.CleanUp(t, "network", "rm", other)
	for _, network := range []string{defaultNetwork(e), other} {
		neighbour := startBystander(t, e, network)
		e.Docker(t, "run", "--rm", "--network", network, image, "attack", "dial", neighbour.address)
		// While other tests make networks, Docker lets some packets pass.
		var got fixture.Result
		for tries := 1; tries <= 3 && got.CloseCode != websocket.CloseInternalServerErr; tries++ {
			got = fixture.Do(t, s, fixture.Command("attack dial "+neighbour.address))
		}
		wantRefused(t, got)
	}
}

// defaultNetwork returns the name of the engine's default network.
func defaultNetwork(e *fixture.Engine) string {
	if e.IsPodman() {
		return "podman"
	}
	return "bridge"
}

// wantRefused checks that an attempt was made and failed.
func wantRefused(t *testing.T, r fixture.Result) {
	t.Helper()
	fixture.WantExit(t, r, 1)
	fixture.WantLine(t, r, ": refused: ")
}

// TestMemoryHog allocates memory without end, and fills /tmp.
func TestMemoryHog(t *testing.T) { fixture.OnEngines(t, memoryHog) }

func memoryHog(t *testing.T, e *fixture.Engine) {
	b := startBystander(t, e, defaultNetwork(e))
	s := fixture.Attacker(t, e, func(s *server.Settings) { s.Limits.Memory.Fixed = 128 << 20 })
	fixture.WantMessage(t, fixture.Do(t, s, fixture.Command("attack memory-hog")), fixture.ExitedBecause(137, fixture.OutOfMemory))
	// Running out of memory is also reported if the job's exit code does not show it.
	fixture.WantMessage(t, fixture.Do(t, s, fixture.Command("attack bereaved-parent")), fixture.ExitedBecause(3, fixture.OutOfMemory))
	fixture.WantEnd(t, s, "out-of-memory")
	got := fixture.Do(t, s, fixture.Command("attack tmp-hog"))
	fixture.WantExit(t, got, 4)
	fixture.WantLine(t, got, "/tmp is full after 63 MiB")
	if err := b.ask(); err != nil {
		t.Error(err)
	}
}
