//go:build integration

package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestBuildCommand runs the command-line client as a user does.
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
			"iglu: running sh -c 'exit 42'\niglu: failed: the command ended with exit code 42. The end of its log may say more.\n",
			"Builder exited with error code 42. the command ended with exit code 42. The end of its log may say more.\n"},
		{"http URL", "http://" + fixture.Env.Server.Address + "/", fixture.Command("printf one"), 0, "one\n", ""},
		{"invalid command", url + fixture.Env.Server.Address, fixture.Command("make all"), 2, "", "Invalid command: 'make all'. buildOptions.command: its first word"},
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

// TestDerivationLog builds a derivation that prints a line, then 60 others, and fails. The build command prints
// only the last lines. The API and the client have the first line too, for each kind of command.
func TestDerivationLog(t *testing.T) {
	s := fixture.Env.Server
	for name, command := range map[string]string{
		"nix build": "nix build --no-link --impure --expr ",
		"nix-build": "nix-build --no-out-link --no-build-output --expr ",
	} {
		t.Run(name, func(t *testing.T) {
			script := "echo the first line of all; i=0; while [ $i -lt 60 ]; do echo another line; i=$((i + 1)); done; echo the last; exit 3"
			expr := fmt.Sprintf(`derivation { name = "talks-1.0"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" %q ]; `+
				`salt = %q; }`, script, rand.Text())
			text, err := json.Marshal(fixture.Command(command + shellwords.Join([]string{expr})))
			if err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			code := fixture.RunProgram(t.Context(), []string{"build", "--url", s.Address, "-"}, bytes.NewReader(text), &stdout, &stderr)
			if code == 0 || strings.Contains(stdout.String(), "> the first line of all\n") || !strings.Contains(stdout.String(), "iglu: failed: talks-1.0 failed: the last. ") {
				t.Errorf("exit code %d\n%s", code, &stdout)
			}
			_, printed, ok := strings.Cut(stderr.String(), "iglu-builder: the log of talks-1.0: iglu-builder ")
			printed, _, _ = strings.Cut(printed, "\n")
			show, err := shellwords.Split(printed)
			if !ok || err != nil {
				t.Fatalf("%v: %s", err, &stderr)
			}
			stdout.Reset()
			if code := fixture.RunProgram(t.Context(), show, nil, &stdout, &stderr); code != 0 {
				t.Errorf("%q exits with %d: %s", show, code, &stderr)
			}
			want := "the first line of all\n" + strings.Repeat("another line\n", 60) + "the last\n"
			if got := stdout.String(); got != want {
				t.Errorf("the client shows\n%s", got)
			}
			job := fixture.NewestJob(t, s)
			if _, got := s.Get(t, "GET", "/api/v1/jobs/"+job+"/derivations/talks-1.0/log"); got != want {
				t.Errorf("the API has\n%s", got)
			}
			_, list := s.Get(t, "GET", "/api/v1/jobs/"+job+"/derivations")
			for _, part := range []string{`-talks-1.0.drv","hash":"`, `"name":"talks-1.0","state":"failed"`, `"lines":62}]}`} {
				if !strings.Contains(list, part) {
					t.Errorf("the list lacks %s: %s", part, list)
				}
			}
			if _, record := s.Get(t, "GET", "/api/v1/jobs/"+job); !strings.Contains(record, `"reason":"talks-1.0 failed: the last"`) {
				t.Errorf("the record is %s", record)
			}
		})
	}
}

// TestResults checks a job's record: the output paths, what was built, and the command to fetch them.
func TestResults(t *testing.T) {
	s, cache := fixture.Env.Server, fixture.NewCache(t)
	expr := fmt.Sprintf(`let d = name: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo %s > $out" ]; }; in { a = d "first"; b = d "second"; }`, rand.Text())
	job := cache.Pushing(fixture.Command("nix build --impure " + shellwords.Join([]string{"--expr", expr, "a", "b"})))
	fixture.WantExit(t, fixture.Do(t, s, job), 0)
	_, text := s.Get(t, "GET", "/api/v1/jobs/"+fixture.NewestJob(t, s))
	var record struct{ Results schemas.ResultsEvent }
	if err := json.Unmarshal([]byte(text), &record); err != nil {
		t.Fatal(err)
	}
	got := record.Results
	if len(got.Results) != 2 || got.Results[0].Installable != "a" || got.Results[1].Installable != "b" || got.Pushed == nil || got.Pushed.Paths != 2 || got.Target != cache.URL {
		t.Fatalf("the record is %s", text)
	}
	first, second := got.Results[0].Paths, got.Results[1].Paths
	if len(first) != 1 || len(second) != 1 || !strings.HasSuffix(first[0], "-first") || !strings.HasSuffix(second[0], "-second") {
		t.Errorf("the paths are %q and %q", first, second)
	}
	want := "nix-store --realise " + first[0] + " " + second[0] + " --option extra-substituters " + cache.URL + " --option extra-trusted-public-keys default:" + fixture.PublicKey(t)
	if got.Get != want {
		t.Errorf("the command is %s\nwant %s", got.Get, want)
	}
}

// TestBusyBuilder runs the client while another client's job is running.
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

// TestSecondInterrupt presses Ctrl-C twice while nobody reads the client's output: the first cancels the job, the second
// ends the client, which cannot print.
func TestSecondInterrupt(t *testing.T) {
	server := fixture.Env.Server
	fixture.WantNoContainers(t, server) // of earlier jobs
	unread, output, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	defer output.Close()
	raw, err := output.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Write(func(fd uintptr) bool {
		for err == nil { // until the pipe is full
			_, err = syscall.Write(int(fd), make([]byte, 4096))
		}
		return true
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := exec.CommandContext(ctx, fixture.Env.Program, "build", "--url", "ws://"+server.Address, "--command", "sh -c 'echo begun; sleep 1000'")
	client.Stdout = output
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	if err := fixture.AwaitEngine(server.Host, time.Minute, func() bool { return len(server.Containers()) > 0 }); err != nil {
		t.Error(err)
	}
	shell{t, server.Address}.awaitLine(fixture.NewestJob(t, server), "begun") // the client has got earlier lines
	client.Process.Signal(syscall.SIGINT)
	fixture.WantNoContainers(t, server)
	fixture.WantFree(t, server)
	client.Process.Signal(syscall.SIGINT)
	client.Wait()
	if status := client.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGINT {
		t.Errorf("the client has ended with %v", client.ProcessState)
	}
}
