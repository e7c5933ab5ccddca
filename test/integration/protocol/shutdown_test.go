//go:build integration

package protocol

import (
	"crypto/rand"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/test/kit/fixture"
)

const notTaken = `{"error":"The builder is shutting down.","msg":"Connect again when it is back.","jobStatus":"failed"}`

// wantStopped waits until a server's process ends, and checks that its exit code is 0.
func wantStopped(t *testing.T, s *fixture.Server) {
	t.Helper()
	if err := <-s.Ended; err != nil {
		t.Errorf("the server ends with %v", err)
	}
	s.Ended <- nil // for the clean-up
}

// takesNoMore reports whether a server has logged that it takes no more jobs.
func takesNoMore(log string) bool { return strings.Contains(log, "accepting no more jobs") }

// TestGrace asks a server to stop while its job runs. The job may end, and no other job is accepted.
func TestGrace(t *testing.T) { fixture.OnEngines(t, grace) }

func grace(t *testing.T, e *fixture.Engine) {
	s := e.Process(t, "test-grace-"+strings.ToLower(rand.Text()[:10]), "--job-image", fixture.Env.Image, "--allowed-commands", "sh", "--shutdown-grace", "5m")
	if status, _ := s.Get(t, "GET", "/readyz"); status != 200 {
		t.Errorf("readyz is %d before", status)
	}
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; sleep 5; echo done'")))
	c.WaitFor(`"begun"`)
	s.Cancel()
	if err := s.Log.Await(10*time.Second, takesNoMore); err != nil {
		t.Error(err)
	}
	if status, _ := s.Get(t, "GET", "/readyz"); status != 503 {
		t.Errorf("readyz is %d", status)
	}
	if status, _ := s.Get(t, "GET", "/livez"); status != 200 {
		t.Errorf("livez is %d", status)
	}
	if got := fixture.Connect(t, s).Finish(); len(got.Messages) != 1 || got.Messages[0] != notTaken || got.CloseCode != 1011 {
		t.Errorf("a new client got %+v", got)
	}
	e.Docker(t, "exec", s.JobContainer(t), "touch", "/tmp/go-on") // has ended before the container does
	got := c.Finish()
	fixture.WantLine(t, got, "done")
	if diff := cmp.Diff([]string{fixture.Succeeded}, got.Messages); diff != "" {
		t.Errorf("messages of the job (-want +got):\n%s", diff)
	}
	wantStopped(t, s)
}

// TestGraceIsOver cancels a job at a shutdown in two ways: after the grace period, and by a second signal.
func TestGraceIsOver(t *testing.T) { fixture.OnEngines(t, graceIsOver) }

func graceIsOver(t *testing.T, e *fixture.Engine) {
	for grace, signals := range map[string]int{"1s": 1, "1h": 2} {
		t.Run(grace, func(t *testing.T) {
			s := e.Process(t, "test-grace-"+strings.ToLower(rand.Text()[:10]), "--job-image", fixture.Env.Image, "--allowed-commands", "sh", "--shutdown-grace", grace)
			c := fixture.Connect(t, s)
			c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; sleep 1000'")))
			c.WaitFor(`"begun"`)
			for n := range signals {
				s.Cancel()
				if err := s.Log.Await(10*time.Second, takesNoMore); err != nil {
					t.Errorf("signal %d: %v", n+1, err)
				}
			}
			fixture.WantMessage(t, c.Finish(), cancelledBecause("The builder is shutting down. Send the job again when it is back."))
			wantStopped(t, s)
		})
	}
}

// TestNotify checks the messages that a server sends to systemd about its state.
func TestNotify(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	notified := func() string {
		socket.SetReadDeadline(time.Now().Add(time.Minute))
		buf := make([]byte, 1024)
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	t.Setenv("NOTIFY_SOCKET", name)
	s := fixture.StartProcess(t, "--job-image", fixture.Env.Image)
	if got := notified(); got != "READY=1" {
		t.Errorf("first message: %q", got)
	}
	s.Cancel()
	if got := notified(); got != "STOPPING=1" {
		t.Errorf("second message: %q", got)
	}
	wantStopped(t, s)
}
