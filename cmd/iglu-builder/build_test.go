package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/test/kit/fixture"
)

func TestBuildCommandUsage(t *testing.T) {
	for _, args := range [][]string{{"build"}, {"build", "--no-such-flag", "-"}, {"build", "no-such-file.json"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, nil, &stdout, &stderr); code != 125 || stderr.Len() == 0 || stdout.Len() > 0 {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q", args, code, &stdout, &stderr)
		}
	}
}

// TestBuilderOfCommand sets the builder's address and token by flags and by variables. The server refuses jobs
// with the token that it got as the reason.
func TestBuilderOfCommand(t *testing.T) {
	builder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.URL.Path+" "+r.Header.Get("Authorization"), http.StatusForbidden)
	}))
	defer builder.Close()
	address := strings.TrimPrefix(builder.URL, "http://")
	const other, notAnAddress = "other-token-0123456789", " is not the address of a builder: give HOST:PORT"
	good, words := fixture.TokenFile(t, fixture.GoodToken), fixture.TokenFile(t, "not a token of a builder")
	for _, test := range []struct {
		name      string
		url, file string // the variables
		args      []string
		want      string
	}{
		{"variables", address, good, nil, "refuses: /api/v1/build Bearer " + fixture.GoodToken},
		{"flags", "", "", []string{"--url", address, "--token-file", good}, "refuses: /api/v1/build Bearer " + fixture.GoodToken},
		{"flags before variables", "ftp://x", good, []string{"--url", address, "--token-file", fixture.TokenFile(t, other)}, "refuses: /api/v1/build Bearer " + other},
		{"token with a byte order mark", address, fixture.TokenFile(t, "\ufeff"+fixture.GoodToken+"\r\n"), nil, "refuses: /api/v1/build Bearer " + fixture.GoodToken},
		{"no token", address, "", nil, "refuses: /api/v1/build\n"},
		{"no token, as the flag says", address, good, []string{"--token-file="}, "refuses: /api/v1/build\n"},
		{"bad variable", "builder", "", nil, `IGLU_URL: "builder"` + notAnAddress},
		{"bad flag", address, "", []string{"--url", "builder"}, `--url: "builder"` + notAnAddress},
		{"empty flag", address, "", []string{"--url="}, `--url: ""` + notAnAddress},
		{"no file", address, good, []string{"--token-file", "/none"}, "iglu-builder build: --token-file: open /none: no such file or directory\n"},
		{"no file of the variable", address, "/none", nil, "iglu-builder build: IGLU_TOKEN_FILE: open /none: no such file or directory\n"},
		{"file without a token", address, "", []string{"--token-file", words}, "--token-file: " + words + " does not contain a token: 16 to 256 letters, digits or ._~-\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv(buildclient.EnvURL, test.url)
			t.Setenv("IGLU_TOKEN_FILE", test.file)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"build", "--command", "nix"}, test.args...), nil, &stdout, &stderr)
			if code != buildclient.ExitClient || !strings.Contains(stderr.String(), test.want) {
				t.Errorf("exit code %d, %s\nwant %s", code, &stderr, test.want)
			}
		})
	}
}

// TestJobWithMark sends a job's file as editors of Windows save it: with a byte order mark, which JSON cannot have.
func TestJobWithMark(t *testing.T) {
	const job = `{"git":{"noClone":true}}`
	file := filepath.Join(t.TempDir(), "job.json")
	if err := os.WriteFile(file, []byte("\ufeff"+job), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	builder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got = append(got, string(text))
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"id":"abc"}`)
	}))
	defer builder.Close()
	t.Setenv("NO_COLOR", "1") // else the client asks for colours
	for _, name := range []string{file, "-"} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"build", "--url", builder.URL, "--detach", name}, strings.NewReader("\ufeff"+job), &stdout, &stderr); code != 0 {
			t.Errorf("%s: exit code %d, %s", name, code, &stderr)
		}
	}
	if want := []string{job, job}; !slices.Equal(got, want) {
		t.Errorf("the builder got %q", got)
	}
}

// fullDisk is an output that accepts nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

// TestDetachCannotPrint sends a job whose id cannot be printed: the command fails, and its error has the id.
func TestDetachCannotPrint(t *testing.T) {
	builder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"id":"abc"}`)
	}))
	defer builder.Close()
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"build", "--url", builder.URL, "--detach", "--command", "nix"}, nil, fullDisk{}, &stderr)
	if want := "iglu-builder build: the job abc was started, but its id cannot be printed: the disk is full\n"; code != buildclient.ExitClient || stderr.String() != want {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
}

// TestCannotPrint runs commands whose output cannot be printed. They fail, and do not blame the command line.
func TestCannotPrint(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}, {"completion", "bash"}, {"--help"}, {"help"}, {"help", "build"}, {"build", "--help"}, {"completion"}, {"stores", "rm", "-h"}} {
		var stderr bytes.Buffer
		if code := run(t.Context(), args, nil, fullDisk{}, &stderr); code != 1 || !strings.HasSuffix(stderr.String(), ": the disk is full\n") || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: exit code %d, %s", args, code, &stderr)
		}
	}
}

// TestJobIDs gives commands a text that is no job's id.
func TestJobIDs(t *testing.T) {
	for _, command := range []string{"watch", "cancel", "log"} {
		for _, id := range []string{"", "../jobs", "a2 "} {
			var stderr bytes.Buffer
			code := run(t.Context(), []string{command, id}, nil, io.Discard, &stderr)
			if want := fmt.Sprintf("%q is not a job's id, which has only small letters and digits\nhint: ", id); code != buildclient.ExitClient || !strings.Contains(stderr.String(), want) {
				t.Errorf("%s %q: exit code %d, %s", command, id, code, &stderr)
			}
		}
	}
}

// TestArguments gives commands too few or too many arguments.
func TestArguments(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"build", "a.json", "b.json"}, buildclient.ExitClient, `build: unexpected argument "b.json": give one file with a job, or flags; a command with spaces is put into quotes`},
		{[]string{"build", "--command", "nix", "build", ".#a"}, buildclient.ExitClient, `build: unexpected argument ".#a": give one file with a job, or flags; a command with spaces is put into quotes`},
		{[]string{"watch"}, buildclient.ExitClient, "watch: give the id of a job"},
		{[]string{"cancel", "a2", "b3"}, buildclient.ExitClient, `cancel: unexpected argument "b3": give the id of one job`},
		{[]string{"log"}, buildclient.ExitClient, "log: give the id of a job"},
		{[]string{"log", "a2", "hello", "more"}, buildclient.ExitClient, `log: unexpected argument "more": give the id of one job, and one derivation`},
		{[]string{"agent", "keys"}, exitUsage, "agent keys: give the folder for the keys"},
		{[]string{"agent", "keys", "a", "b"}, exitUsage, `agent keys: unexpected argument "b": give one folder`},
	} {
		var stderr bytes.Buffer
		command, _, _ := strings.Cut(test.want, ":")
		want := fmt.Sprintf("iglu-builder %s\nhint: see 'iglu-builder %s --help'\n", test.want, command)
		if code := run(t.Context(), test.args, nil, io.Discard, &stderr); code != test.code || stderr.String() != want {
			t.Errorf("%q: exit code %d, %s\nwant %s", test.args, code, &stderr, want)
		}
	}
}
