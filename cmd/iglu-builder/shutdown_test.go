package main

import (
	"crypto/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const notTaken = `{"error":"The builder is shutting down.","msg":"Connect again when it is back.","jobStatus":"failed"}`

// stopped waits for a server's process to end by itself, with exit code 0.
func (s *server) stopped(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("the server ends with %v", err)
		}
	case <-time.After(2 * time.Minute):
		t.Error("the server does not end")
	}
	s.ended <- nil // for the clean-up
}

// TestGrace asks a server to stop while its job runs: the job may end, no other is taken.
func TestGrace(t *testing.T) { onEngines(t, grace) }

func grace(t *testing.T, e *site) {
	s := e.process(t, "test-grace-"+strings.ToLower(rand.Text()[:10]), "--job-image", world.image, "--allowed-commands", "sh", "--shutdown-grace", "5m")
	if status, _ := s.get(t, "GET", "/readyz"); status != 200 {
		t.Errorf("readyz is %d before", status)
	}
	c := connect(t, s)
	c.send(jsonOf(t, command("sh -c 'echo begun; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; sleep 5; echo done'")))
	c.waitFor(`"begun"`)
	s.cancel()
	if err := poll(10*time.Second, func() bool { status, _ := s.get(t, "GET", "/readyz"); return status == 503 }); err != nil {
		t.Errorf("readyz: %v", err)
	}
	if status, _ := s.get(t, "GET", "/livez"); status != 200 {
		t.Errorf("livez is %d", status)
	}
	if got := connect(t, s).finish(); len(got.messages) != 1 || got.messages[0] != notTaken || got.closeCode != 1011 {
		t.Errorf("a new client got %+v", got)
	}
	e.docker(t, "exec", s.containers()[0], "touch", "/tmp/go-on") // has ended before the container does
	got := c.finish()
	wantLine(t, got, "done")
	if diff := cmp.Diff([]string{succeeded}, got.messages); diff != "" {
		t.Errorf("messages of the job (-want +got):\n%s", diff)
	}
	s.stopped(t)
}

// TestGraceIsOver has a job take longer than it is given, and a second signal take what it
// is given.
func TestGraceIsOver(t *testing.T) { onEngines(t, graceIsOver) }

func graceIsOver(t *testing.T, e *site) {
	for grace, signals := range map[string]int{"1s": 1, "1h": 2} {
		t.Run(grace, func(t *testing.T) {
			s := e.process(t, "test-grace-"+strings.ToLower(rand.Text()[:10]), "--job-image", world.image, "--allowed-commands", "sh", "--shutdown-grace", grace)
			c := connect(t, s)
			c.send(jsonOf(t, command("sh -c 'echo begun; sleep 1000'")))
			c.waitFor(`"begun"`)
			for n := range signals {
				s.cancel()
				if err := poll(10*time.Second, func() bool { return strings.Contains(s.log.String(), "taking no more jobs") }); err != nil {
					t.Errorf("signal %d: %v", n+1, err)
				}
			}
			wantMessage(t, c.finish(), cancelledBecause("The builder is shutting down. Send the job again when it is back."))
			s.stopped(t)
		})
	}
}

// TestNotify has a server tell systemd how it is.
func TestNotify(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	told := func() string {
		socket.SetReadDeadline(time.Now().Add(time.Minute))
		buf := make([]byte, 1024)
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	t.Setenv("NOTIFY_SOCKET", name)
	s := startProcess(t, "--job-image", world.image)
	if got := told(); got != "READY=1" {
		t.Errorf("told %q first", got)
	}
	s.cancel()
	if got := told(); got != "STOPPING=1" {
		t.Errorf("told %q then", got)
	}
	s.stopped(t)
}

// TestUnit has systemd read the unit of examples, with the program where it is.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile("../../examples/iglu-builder.service")
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/local/bin/iglu-builder"
	unit := strings.ReplaceAll(string(text), program, world.program)
	if unit == string(text) {
		t.Fatalf("it does not run %s", program)
	}
	name := filepath.Join(t.TempDir(), "iglu-builder.service")
	if err := os.WriteFile(name, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", name).CombinedOutput()
	if err != nil || len(output) > 0 {
		t.Errorf("%v: %s", err, output)
	}
}
