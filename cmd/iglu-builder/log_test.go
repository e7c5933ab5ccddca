package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
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
	"iglu.sh/builder/internal/shellwords"
)

// TestEveryLineArrives sends a gigabyte of random lines through the server and the
// client, both in processes of their own, and compares digests of both ends.
func TestEveryLineArrives(t *testing.T) { onEngines(t, everyLineArrives) }

func everyLineArrives(t *testing.T, e *site) {
	size := 1_000_000_000
	if e.isPodman() {
		size = 100_000_000 // it takes longer for each
	}
	image := "lines-test:" + strings.ToLower(world.server.instance)
	importProgram(t, e.host, image, buildProgram(t, "lines"), "lines")
	e.cleanUp(t, "image", "rm", image)
	s := e.process(t, "test-lines-"+strings.ToLower(rand.Text()[:10]), "--job-image", image, "--allowed-commands", "lines")

	client := exec.Command(world.program, "build", "--url", "ws://"+s.address, "-")
	client.Stdin = strings.NewReader(jsonOf(t, command(fmt.Sprintf("lines %d", size))))
	client.Stderr = os.Stderr
	printed, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	got, want := digests(t, printed)
	if err := client.Wait(); err != nil {
		t.Error(err)
	}
	if got != want {
		t.Errorf("what arrived is not what was written:\ngot  %s\nwant %s", got, want)
	}
}

// digests returns the digests of the lines that the program of testdata/lines printed,
// and those that it says they have.
func digests(t *testing.T, printed io.Reader) (got, want string) {
	stdout, stderr := sha256.New(), sha256.New()
	for lines := bufio.NewReaderSize(printed, 8<<20); ; {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF {
			return fmt.Sprintf("digests: %x %x", stdout.Sum(nil), stderr.Sum(nil)), want
		}
		switch {
		case err != nil:
			t.Fatal(err)
		case bytes.HasPrefix(line, []byte("iglu: ")):
		case bytes.HasPrefix(line, []byte("digests: ")):
			want = strings.TrimSuffix(string(line), "\n")
		case line[0] == 1:
			stderr.Write(line)
		default:
			stdout.Write(line)
		}
	}
}

// TestNothingElseIsMasked has real builds print 100 MB: names and sizes of files, their
// digests, their text, and binaries as base64. None of it is one of the job's secrets.
func TestNothingElseIsMasked(t *testing.T) {
	t.Parallel()
	s := startProcess(t, "--job-image", world.image)
	var key []string
	for range 8 {
		key = append(key, rand.Text()+rand.Text())
	}
	// One line: a job's command has no line ends.
	script := strings.Join([]string{
		`PATH=/nix/var/nix/profiles/default/bin`,
		`find / -xdev -type f -size +20k > files 2>/dev/null || true`,
		`while read -r file; do echo reading "$file"; ls -l "$file"; sha256sum "$file"; done < files 2>&1`,
		`while read -r file; do head -c 3000000 "$file" | base64; head -c 300000 "$file" | od -An -tx1; done < files 2>/dev/null | head -c 104857600`,
		`echo > $out`,
	}, "; ")
	j := command(shellwords.Join([]string{"nix-build", "--no-out-link", "-E", derivation("noise", script)}))
	j.Git.GitKey = strings.Join(key, "\n")
	j.BuildOptions.Cachix.APIKey, j.BuildOptions.Cachix.SigningKey = rand.Text(), rand.Text()

	client := exec.Command(world.program, "build", "--url", "ws://"+s.address, "-")
	client.Stdin, client.Stderr = strings.NewReader(jsonOf(t, j)), os.Stderr
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

// buildProgram builds a program of testdata, static.
func buildProgram(t *testing.T, command string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), command)
	build := exec.Command("go", "build", "-o", name, "./testdata/"+command)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	program, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func jsonOf(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// startProcess starts a server in a process of its own, without the race detector.
func startProcess(t *testing.T, flags ...string) *server {
	t.Helper()
	return startProcessAs(t, "test-process-"+strings.ToLower(rand.Text()[:10]), "", flags...)
}

// startProcessAs is startProcess for an instance that may have had an earlier run, on the
// engine of the host if it is named.
func startProcessAs(t *testing.T, instance, host string, flags ...string) *server {
	t.Helper()
	return startProcessIn(t, instance, t.TempDir(), host, flags...)
}

// startProcessIn is startProcessAs with the state of an earlier run.
func startProcessIn(t *testing.T, instance, stateDir, host string, flags ...string) *server {
	t.Helper()
	s := &server{instance: instance, stateDir: stateDir}
	process := exec.Command(world.program, append([]string{"serve", "--listen", "127.0.0.1:0",
		"--instance", s.instance, "--state-dir", s.stateDir}, flags...)...)
	process.Stderr = &s.log
	process.Env = (&site{host: host}).environ()
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	s.pid = process.Process.Pid
	s.cancel = func() { process.Process.Signal(syscall.SIGTERM) }
	s.kill = func() {
		process.Process.Kill()
		<-s.ended
		s.ended <- nil // for the clean-up
	}
	s.ended = make(chan error, 1)
	go func() { s.ended <- process.Wait() }()
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	if err := poll(30*time.Second, func() bool {
		match := addrInLog.FindStringSubmatch(s.log.String())
		if match != nil {
			s.address = match[1]
		}
		return match != nil
	}); err != nil {
		t.Fatalf("%v: %s", err, s.log.String())
	}
	return s
}

// flood is a job that prints more than all the buffers on the way hold.
const floodLines = 300_000

var flood = command(fmt.Sprintf(`sh -c 'yes 0123456789012345678901234567890123456789 | head -n %d; echo done'`, floodLines))

// TestStalledClient stops reading for longer than a client may be silent, while its job
// prints: the job does not wait, and when the client reads on it gets every line.
func TestStalledClient(t *testing.T) { onEngines(t, stalledClient) }

func stalledClient(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	c := connect(t, s)
	c.send(jsonOf(t, flood))
	c.waitFor("iglu: running")
	time.Sleep(35 * time.Second)
	wantEnd(t, s, "exited") // it did not wait for its client
	lines, last := c.countLines(floodLines + 1)
	if last != `{"stdout":"done","jobStatus":"running"}` {
		t.Errorf("the last line is %s", last)
	}
	if got := c.finish(); len(got.messages) != 1 || got.messages[0] != succeeded {
		t.Errorf("after %d of %d lines: %+v", lines, floodLines, got)
	}
}

// countLines reads n messages of output, quicker than read does, and returns the last.
func (c *client) countLines(n int) (lines int, last string) {
	c.t.Helper()
	var message []byte
	for ; lines < n; lines++ {
		if lines%1000 == 0 {
			c.conn.SetReadDeadline(time.Now().Add(messageTimeout))
		}
		_, r, err := c.conn.NextReader()
		if err == nil {
			message, err = readInto(message[:0], r)
		}
		if err != nil || !bytes.HasPrefix(message, []byte(`{"stdout":`)) {
			c.t.Fatalf("message %d of %d: %s, %v", lines, n, message, err)
		}
	}
	return lines, string(message)
}

// TestClientAcceptsNothing never reads: when its time is up, its job ends.
func TestClientAcceptsNothing(t *testing.T) { onEngines(t, clientAcceptsNothing) }

func clientAcceptsNothing(t *testing.T, e *site) {
	s := e.server(t, func(s *settings) { s.clientTimeout = time.Second })
	c := connect(t, s)
	c.send(jsonOf(t, command("sh -c 'yes 0123456789012345678901234567890123456789 | head -n 1000000; sleep 1000'")))
	if err := poll(time.Minute, func() bool { return strings.Contains(s.log.String(), "job ended") }); err != nil {
		t.Errorf("the job goes on: %v\n%s", err, s.log.String())
	}
	c.conn.Close()
	wantFree(t, s)
}

// TestClientVanishes cuts a client off the network: nothing of what the server sends is
// answered any more. It is noticed while nothing is sent to it, and while much is.
func TestClientVanishesFromTheNetwork(t *testing.T) { onEngines(t, clientVanishesFromTheNetwork) }

func clientVanishesFromTheNetwork(t *testing.T, e *site) {
	for _, line := range []string{
		"sh -c 'echo begun; sleep 1000'",
		"sh -c 'echo begun; yes 0123456789012345678901234567890123456789'",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			s := e.server(t, func(s *settings) { s.maxLogBytes = 64 << 20 })
			c := connect(t, s)
			c.send(jsonOf(t, command(line)))
			c.waitFor("begun")
			_, port, err := net.SplitHostPort(c.conn.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			for _, side := range []string{"--source-port", "--destination-port"} {
				rule := []string{"INPUT", "--protocol", "tcp", side, port, "--jump", "DROP"}
				iptables(t, append([]string{"--insert"}, rule...)...)
				t.Cleanup(func() { iptables(t, append([]string{"--delete"}, rule...)...) })
			}
			if err := poll(45*time.Second, func() bool { return len(s.containers()) == 0 }); err != nil { // 30 s, and the removal
				t.Errorf("the job goes on: %v\n%s", err, s.log.String())
			}
			wantFree(t, s)
		})
	}
}

func iptables(t *testing.T, args ...string) {
	if output, err := exec.Command("iptables", append([]string{"--wait"}, args...)...).CombinedOutput(); err != nil {
		t.Errorf("iptables %v: %v: %s", args, err, output)
	}
}

// TestSlowToTheEnd has a client read nothing until some time after its job has ended. All
// that it has not read by then is in the kernel's hands, a ping included, which it answers.
func TestSlowToTheEnd(t *testing.T) { onEngines(t, slowToTheEnd) }

func slowToTheEnd(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	dialer := websocket.Dialer{NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return conn, err
	}}
	conn, _, err := dialer.DialContext(t.Context(), "ws://"+s.address+"/api/v1/build", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &client{t: t, conn: conn}
	const lines = 20_000
	c.send(jsonOf(t, command(fmt.Sprintf("sh -c 'sleep 6; seq %d'", lines)))) // after a ping
	c.waitFor("iglu: running")
	wantEnd(t, s, "exited")
	time.Sleep(30 * time.Second) // longer than a client may give no sign of life
	got := c.finish()
	if n := len(got.lines); got.closeCode != websocket.CloseNormalClosure || n < lines || got.lines[n-1] != fmt.Sprint(lines) {
		t.Errorf("%d lines, close code %d", n, got.closeCode)
	}
}

// TestPings has a client ask for a sign of life again and again while it is sent lines:
// just when the server may still be busy with the line before.
func TestPings(t *testing.T) { onEngines(t, pings) }

func pings(t *testing.T, e *site) {
	c := connect(t, e.server(t, func(*settings) {}))
	answered := 0
	c.conn.SetPongHandler(func(string) error { answered++; return nil })
	c.send(jsonOf(t, command("sh -c 'for i in $(seq 300); do echo line; sleep 0.01; done'")))
	for asked := range 50 {
		for c.waitFor("line"); answered < asked; {
			c.waitFor("line")
		}
		if err := c.conn.WriteControl(websocket.PingMessage, []byte("there?"), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.finish(); len(got.messages) != 1 || got.messages[0] != succeeded || answered != 50 {
		t.Errorf("%d answers, messages %v", answered, got.messages)
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

// TestDiskFull keeps logs on a disk of one megabyte.
func TestDiskFull(t *testing.T) { onEngines(t, diskFull) }

func diskFull(t *testing.T, e *site) {
	s := e.server(t, func(s *settings) { s.stateDir, s.keepLogs = smallDisk(t), joblog.Keep{} })
	got := do(t, s, command("sh -c 'seq 1000000; sleep 1000'"))
	want := `{"error":"The builder cannot keep the job's log.","msg":"Make room on the disk of its folder for logs (IGLU_STATE_DIR), and send the job again.","jobStatus":"failed"}`
	if len(got.messages) != 2 || got.messages[1] != want || got.closeCode != 1011 {
		t.Errorf("got %v, close code %d", got.messages, got.closeCode)
	}
	wantNoContainers(t, s)
	wantFree(t, s)
}

// TestCutLog lets a log grow beyond its limit.
func TestCutLog(t *testing.T) { onEngines(t, cutLog) }

func cutLog(t *testing.T, e *site) {
	s := e.server(t, func(s *settings) { s.maxLogBytes = leastLogBytes })
	got := do(t, s, command("seq 1000000"))
	wantExit(t, got, 0)
	wantLine(t, got, "iglu: the log is cut here, at its limit of 262144 bytes")
	wantLine(t, got, "bytes of the log are left out here")
	if last := got.lines[len(got.lines)-1]; last != "1000000" {
		t.Errorf("the last line is %q", last)
	}
	size := 0
	for _, line := range got.lines {
		size += len(line) + 1
	}
	if size > leastLogBytes || size < leastLogBytes/2 {
		t.Errorf("the log has %d bytes", size)
	}
}

// TestKeptLogs looks at the files.
func TestKeptLogs(t *testing.T) { onEngines(t, keptLogs) }

func keptLogs(t *testing.T, e *site) {
	s := e.server(t, func(s *settings) { s.keepLogs = joblog.Keep{Jobs: 2} })
	for n := range 4 {
		wantExit(t, do(t, s, command(fmt.Sprintf("printf 'job %d'", n))), 0)
	}
	names, err := filepath.Glob(filepath.Join(world.stateDir, s.instance, "logs", "*.log"))
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
		t.Errorf("kept are %s", kept)
	}
}
