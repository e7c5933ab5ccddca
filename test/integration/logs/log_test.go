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
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/test/kit/fixture"
)

// TestEveryLineArrives sends a gigabyte of random lines through the server and the
// client, both in processes of their own, and compares digests of both ends.
func TestEveryLineArrives(t *testing.T) { fixture.OnEngines(t, everyLineArrives) }

func everyLineArrives(t *testing.T, e *fixture.Engine) {
	size := 1_000_000_000
	if e.IsPodman() {
		size = 100_000_000 // it takes longer for each
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

// TestNothingElseIsMasked has real builds print 100 MB: names and sizes of files, their
// digests, their text, and binaries as base64. None of it is one of the job's secrets.
func TestNothingElseIsMasked(t *testing.T) {
	t.Parallel()
	s := fixture.StartProcess(t, "--job-image", fixture.Env.Image)
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
