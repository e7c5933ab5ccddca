//go:build integration && long

package logs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/test/kit/fixture"
)

// flood is a job that prints more than all buffers between it and its client can hold.
const floodLines = 300_000

var flood = fixture.Command(fmt.Sprintf(`sh -c 'yes 0123456789012345678901234567890123456789 | head -n %d; echo done'`, floodLines))

// TestStalledClient stops reading for longer than a client may be silent, while its job prints. The job does not
// wait. When the client continues to read, it gets every line.
func TestStalledClient(t *testing.T) { fixture.OnEngines(t, stalledClient) }

func stalledClient(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, flood))
	c.WaitFor("iglu: running")
	fixture.Pass(35 * time.Second)
	fixture.WantEnd(t, s, "exited") // it did not wait for its client
	lines, last := c.CountLines(floodLines + 1)
	if last != `{"stdout":"done","jobStatus":"running"}` {
		t.Errorf("the last line is %s", last)
	}
	if got := c.Finish(); len(got.Messages) != 1 || got.Messages[0] != fixture.Succeeded {
		t.Errorf("after %d of %d lines: %+v", lines, floodLines, got)
	}
}

// TestClientAcceptsNothing runs a client that never reads. After the time-out, its job is stopped.
func TestClientAcceptsNothing(t *testing.T) { fixture.OnEngines(t, clientAcceptsNothing) }

func clientAcceptsNothing(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(s *server.Settings) { s.ClientTimeout = time.Second })
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'yes 0123456789012345678901234567890123456789 | head -n 1000000; sleep 1000'")))
	if err := s.Log.Await(time.Minute, func(text string) bool { return strings.Contains(text, "job ended") }); err != nil {
		t.Errorf("the job is still running: %v", err)
	}
	c.Conn.Close()
	fixture.WantFree(t, s)
}

// TestClientVanishesFromTheNetwork disconnects a client from the network, so that nothing answers the server. The
// server notices it both while it sends nothing and while it sends a lot.
func TestClientVanishesFromTheNetwork(t *testing.T) {
	fixture.OnEngines(t, clientVanishesFromTheNetwork)
}

func clientVanishesFromTheNetwork(t *testing.T, e *fixture.Engine) {
	for _, line := range []string{
		"sh -c 'echo begun; sleep 1000'",
		"sh -c 'echo begun; yes 0123456789012345678901234567890123456789'",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			s := e.Server(t, func(s *server.Settings) { s.MaxLogBytes = 64 << 20 })
			c := fixture.Connect(t, s)
			c.Send(fixture.JSONOf(t, fixture.Command(line)))
			c.WaitFor(`"begun"`)
			_, port, err := net.SplitHostPort(c.Conn.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			for _, side := range []string{"--source-port", "--destination-port"} {
				rule := []string{"INPUT", "--protocol", "tcp", side, port, "--jump", "DROP"}
				iptables(t, append([]string{"--insert"}, rule...)...)
				t.Cleanup(func() { iptables(t, append([]string{"--delete"}, rule...)...) })
			}
			if err := s.AwaitNoContainers(45 * time.Second); err != nil { // the time-out is 30 s, the rest is for the removal
				t.Errorf("the job is still running: %v\n%s", err, s.Log.String())
			}
			fixture.WantFree(t, s)
		})
	}
}

func iptables(t *testing.T, args ...string) {
	if output, err := exec.Command("iptables", append([]string{"--wait"}, args...)...).CombinedOutput(); err != nil {
		t.Errorf("iptables %v: %v: %s", args, err, output)
	}
}

// TestSlowToTheEnd runs a client that starts to read some time after its job has ended. By then the rest of the
// log is in the kernel's buffers, including a ping, which the client answers.
func TestSlowToTheEnd(t *testing.T) { fixture.OnEngines(t, slowToTheEnd) }

func slowToTheEnd(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	dialer := websocket.Dialer{NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return conn, err
	}}
	conn, _, err := dialer.DialContext(t.Context(), "ws://"+s.Address+"/api/v1/build", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &fixture.Client{T: t, Conn: conn}
	const lines = 20_000
	c.Send(fixture.JSONOf(t, fixture.Command(fmt.Sprintf("sh -c 'sleep 6; seq %d'", lines)))) // after a ping
	c.WaitFor("iglu: running")
	fixture.WantEnd(t, s, "exited")
	fixture.Pass(30 * time.Second) // longer than a client may be silent
	got := c.Finish()
	if n := len(got.Lines); got.CloseCode != websocket.CloseNormalClosure || n < lines || got.Lines[n-1] != fmt.Sprint(lines) {
		t.Errorf("%d lines, close code %d", n, got.CloseCode)
	}
}

// TestPings sends pings right after lines arrive, while the server may still be busy with the write of a line.
func TestPings(t *testing.T) { fixture.OnEngines(t, pings) }

func pings(t *testing.T, e *fixture.Engine) {
	c := fixture.Connect(t, e.Server(t, func(*server.Settings) {}))
	answered := 0
	c.Conn.SetPongHandler(func(string) error { answered++; return nil })
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'for i in $(seq 300); do echo line; sleep 0.01; done'")))
	for asked := range 50 {
		for c.WaitFor("line"); answered < asked; {
			c.WaitFor("line")
		}
		if err := c.Conn.WriteControl(websocket.PingMessage, []byte("there?"), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.Finish(); len(got.Messages) != 1 || got.Messages[0] != fixture.Succeeded || answered != 50 {
		t.Errorf("%d answers, messages %v", answered, got.Messages)
	}
}

// TestDiskFull stores logs on a disk of one megabyte.
func TestDiskFull(t *testing.T) { fixture.OnEngines(t, diskFull) }

func diskFull(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(s *server.Settings) { s.StateDir, s.KeepLogs = smallDisk(t), joblog.Keep{} })
	got := fixture.Do(t, s, fixture.Command("sh -c 'seq 1000000; sleep 1000'"))
	want := `{"error":"The builder cannot keep the job's log.","msg":"Make room on the disk of its folder for logs (IGLU_STATE_DIR), and send the job again.","jobStatus":"failed"}`
	if len(got.Messages) != 2 || got.Messages[1] != want || got.CloseCode != 1011 {
		t.Errorf("got %v, close code %d", got.Messages, got.CloseCode)
	}
	fixture.WantNoContainers(t, s)
	fixture.WantFree(t, s)
}

// TestNothingElseIsMasked prints 100 MB in real builds: names and sizes of files, their digests, their text, and
// binaries as base64. None of it is masked, because it contains no secret of the job.
func TestNothingElseIsMasked(t *testing.T) {
	t.Parallel()
	s := fixture.StartProcess(t, "--job-image", fixture.Env.Image)
	var key []string
	for range 8 {
		key = append(key, rand.Text()+rand.Text())
	}
	// One line, because a job's command must not contain line breaks.
	script := strings.Join([]string{
		`PATH=/nix/var/nix/profiles/default/bin`,
		`find / -xdev -type f -size +20k > files 2>/dev/null || true`,
		`while read -r file; do echo reading "$file"; ls -l "$file"; sha256sum "$file"; done < files 2>&1`,
		`while read -r file; do head -c 3000000 "$file" | base64; head -c 300000 "$file" | od -An -tx1; done < files 2>/dev/null | head -c 104857600`,
		`echo > $out`,
	}, "; ")
	j := fixture.Command(shellwords.Join([]string{"nix-build", "--no-out-link", "-E", fixture.Derivation("noise", script)}))
	j.Git.GitKey = strings.Join(key, "\n")
	j.BuildOptions.Cachix.APIKey, j.BuildOptions.Cachix.SigningKey = rand.Text(), rand.Text()

	client := exec.Command(fixture.Env.Program, "build", "--url", "ws://"+s.Address, "-")
	client.Stdin, client.Stderr = strings.NewReader(fixture.JSONOf(t, j)), os.Stderr
	printed, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	size := 0
	for lines := bufio.NewReaderSize(printed, 8<<20); ; {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			break
		}
		if bytes.Contains(line, []byte("***")) {
			t.Errorf("masked: %.300s", line)
		}
		size += len(line)
	}
	if err := client.Wait(); err != nil {
		t.Error(err)
	}
	if size < 100<<20 {
		t.Errorf("only %d bytes were printed", size)
	}
}

// smallDisk returns a folder on a disk of one megabyte.
func smallDisk(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(folder, syscall.MNT_DETACH) })
	return folder
}

// TestCutLog runs a job whose log exceeds its limit.
func TestCutLog(t *testing.T) { fixture.OnEngines(t, cutLog) }

func cutLog(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(s *server.Settings) { s.MaxLogBytes = server.LeastLogBytes })
	got := fixture.Do(t, s, fixture.Command("seq 1000000"))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "iglu: the log is cut here, at its limit of 262144 bytes")
	fixture.WantLine(t, got, "bytes of the log are left out here")
	if last := got.Lines[len(got.Lines)-1]; last != "1000000" {
		t.Errorf("the last line is %q", last)
	}
	size := 0
	for _, line := range got.Lines {
		size += len(line) + 1
	}
	if size > server.LeastLogBytes || size < server.LeastLogBytes/2 {
		t.Errorf("the log has %d bytes", size)
	}
}

// TestKeptLogs checks the files of stored logs.
func TestKeptLogs(t *testing.T) { fixture.OnEngines(t, keptLogs) }

func keptLogs(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(s *server.Settings) { s.KeepLogs = joblog.Keep{Jobs: 2} })
	for n := range 4 {
		fixture.WantExit(t, fixture.Do(t, s, fixture.Command(fmt.Sprintf("printf 'job %d'", n))), 0)
	}
	names, err := filepath.Glob(filepath.Join(fixture.Env.StateDir, s.Instance, "logs", "*.log"))
	if err != nil || len(names) != 2 {
		t.Fatalf("files %v, %v", names, err)
	}
	var kept string
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		kept += string(text)
	}
	if !strings.Contains(kept, "\njob 2\n") || !strings.Contains(kept, "\njob 3\n") {
		t.Errorf("the stored logs are %s", kept)
	}
}
