//go:build integration

package client

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// TestBuildCommand runs the client as a user does.
func TestBuildCommand(t *testing.T) {
	const url = "ws://"
	refused := fixture.Job{}
	tests := []struct {
		name   string
		url    string
		job    fixture.Job
		code   int
		stdout string
		stderr string
	}{
		{"success", url + fixture.Env.Server.Address, fixture.Command("printf 'one\\ntwo'"), 0,
			"iglu: running printf 'one\\ntwo'\none\ntwo\n", "Start Building\nBuild was successfull\n"},
		{"failure", url + fixture.Env.Server.Address + "/api/v1/build", fixture.Command("sh -c 'exit 42'"), 42,
			"iglu: running sh -c 'exit 42'\n", "Builder exited with error code 42\n"},
		{"http URL", "http://" + fixture.Env.Server.Address + "/", fixture.Command("printf one"), 0, "one\n", ""},
		{"invalid command", url + fixture.Env.Server.Address, fixture.Command("make all"), 2, "", "Invalid command: 'make all' buildOptions.command: its first word"},
		{"refused", url + fixture.Env.Server.Address, refused, 125, "", "JSON schema is not valid. git.repository: is required"},
		{"no server", "ws://127.0.0.1:1", fixture.Command("nix"), 125, "", "no builder answers at ws://127.0.0.1:1/api/v1/build"},
		{"another path", url + fixture.Env.Server.Address + "/api", fixture.Command("nix"), 125, "", "is not a builder: it answers 404 Not Found"},
		{"no WebSocket URL", "ftp://127.0.0.1", fixture.Command("nix"), 125, "", "--url"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text, err := json.Marshal(test.job)
			if err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			code := fixture.RunProgram(t.Context(), []string{"build", "--url", test.url, "-"}, bytes.NewReader(text), &stdout, &stderr)
			if code != test.code || !strings.HasSuffix(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("exit code %d\nstdout %s\nstderr %s", code, &stdout, &stderr)
			}
		})
	}
}

// TestBusyBuilder has the client come second.
func TestBusyBuilder(t *testing.T) {
	first := fixture.Connect(t, fixture.Env.Server)
	var stdout, stderr bytes.Buffer
	code := fixture.RunProgram(t.Context(), []string{"build", "--url", "ws://" + fixture.Env.Server.Address, "-"}, strings.NewReader("{}"), &stdout, &stderr)
	if code != 125 || !strings.Contains(stderr.String(), "A build job is already running.") {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
	first.Send("")
	first.Finish()
}

// TestInterrupt presses Ctrl-C while the client's job runs.
func TestInterrupt(t *testing.T) {
	text, err := json.Marshal(fixture.Command("sh -c 'echo begun; sleep 1000'"))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "job.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	client := exec.Command(fixture.Env.Program, "build", "--url", "ws://"+fixture.Env.Server.Address, name)
	var stderr bytes.Buffer
	client.Stderr = &stderr
	stdout, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	var printed []byte
	for buf := make([]byte, 4096); !bytes.Contains(printed, []byte("\nbegun\n")); {
		n, err := stdout.Read(buf)
		if err != nil {
			t.Fatalf("%v after %s", err, printed)
		}
		printed = append(printed, buf[:n]...)
	}
	client.Process.Signal(syscall.SIGINT)
	client.Wait()
	if code := client.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
	fixture.WantNoContainers(t, fixture.Env.Server)
	fixture.WantFree(t, fixture.Env.Server)
}
