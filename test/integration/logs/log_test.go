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
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// TestEveryLineArrives sends random lines through the server and the client, both in separate processes, and
// compares digests of both ends. In the long suite it is a gigabyte.
func TestEveryLineArrives(t *testing.T) { fixture.OnEngines(t, everyLineArrives) }

func everyLineArrives(t *testing.T, e *fixture.Engine) {
	size := fixture.Size(20_000_000, 1_000_000_000)
	if e.IsPodman() {
		size /= 10 // it is slower per line
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

// digests returns the digests of the received lines of the program test/kit/cmd/lines, and the digests that the
// program reports.
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
