//go:build integration

package logs

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestEveryLineArrives sends random lines, in the long suite a gigabyte of them, through the
// server and the client, both in processes of their own, and compares digests of both ends.
func TestEveryLineArrives(t *testing.T) { fixture.OnEngines(t, everyLineArrives) }

func everyLineArrives(t *testing.T, e *fixture.Engine) {
	size := fixture.Size(20_000_000, 1_000_000_000)
	if e.IsPodman() {
		size /= 10 // it takes longer for each
	}
	image := "lines-test:" + strings.ToLower(fixture.Env.Server.Instance)
	fixture.ImportProgram(t, e.Host, image, fixture.BuildProgram(t, "lines"), "lines")
	e.CleanUp(t, "image", "rm", image)
	s := e.Process(t, "test-lines-"+strings.ToLower(rand.Text()[:10]), "--job-image", image, "--allowed-commands", "lines")

	client := exec.Command(fixture.Env.Program, "build", "--url", "ws://"+s.Address, "-")
	client.Stdin = strings.NewReader(fixture.JSONOf(t, fixture.Command(fmt.Sprintf("lines %d", size))))
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

// digests returns the digests of the lines that the program of test/kit/cmd/lines printed,
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

// TestCutLog lets a log grow beyond its limit.
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

// TestKeptLogs looks at the files.
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
		t.Errorf("kept are %s", kept)
	}
}
