package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/fixture"
)

// TestAgentCommands makes keys, starts an agent with them, asks for its health, and stops it.
func TestAgentCommands(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"agent", "keys", keys, "--host", "node-1"}, nil, &stdout, &stderr)
	if want := "made " + keys + "/server\nmade " + keys + "/agent\n"; code != 0 || stdout.String() != want || stderr.Len() > 0 {
		t.Fatalf("exit code %d, printed %q, %q", code, &stdout, &stderr)
	}
	wantFailure(t, 1, []string{"agent", "keys", keys}, "keys/server exists already")
	wantFailure(t, 2, []string{"agent", "keys", keys + "-2", "--host", "node-1", "--host", "node 2"}, `--host: "node 2" is not the name or the address of a host`)
	wantFailure(t, 2, []string{"agent", "keys"}, "hint: see 'iglu-builder agent keys --help'")

	socket := anEngine(t)
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	t.Setenv("IGLU_AGENT_KEYS", filepath.Join(keys, "agent"))
	t.Setenv("IGLU_LISTEN", "127.0.0.1:1") // the server's, in its image
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log := new(fixture.Log)
	ended := make(chan int)
	go func() { ended <- run(ctx, []string{"agent", "--listen", "127.0.0.1:0"}, nil, log, log) }()
	listens := regexp.MustCompile(`msg=listening addr=(\S+)`)
	if err := log.Await(time.Minute, listens.MatchString); err != nil {
		t.Fatal(err)
	}
	address := listens.FindStringSubmatch(log.String())[1]
	if code := run(t.Context(), []string{"agent", "check", "--listen", address}, nil, &stdout, &stderr); code != 0 {
		t.Errorf("in good health: exit code %d, %s", code, &stderr)
	}
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d, %s", code, log)
	}
	wantFailure(t, 1, []string{"agent", "check", "--listen", address}, "iglu-builder agent check: no agent answers: ")
}

// TestAgentThatCannotStart starts agents with wrong settings.
func TestAgentThatCannotStart(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	var discard bytes.Buffer
	if code := run(t.Context(), []string{"agent", "keys", keys}, nil, &discard, &discard); code != 0 {
		t.Fatal(&discard)
	}
	socket := "unix://" + anEngine(t)
	for _, test := range []struct {
		keys, host string
		args       []string
		code       int
		want       string
	}{
		{"", socket, nil, 1, "no keys: set --agent-keys or IGLU_AGENT_KEYS to their folder\nhint: 'iglu-builder agent keys DIR' makes them"},
		{keys, socket, nil, 1, "read the agent's keys: open " + keys + "/cert.pem: no such file"},
		{keys + "/server", socket, nil, 1, keys + "/server has the keys of the server, which belong on no other machine\nhint: an agent needs those in DIR/agent"},
		{keys + "/agent", "tcp://127.0.0.1:2375", nil, 1, "DOCKER_HOST is tcp://127.0.0.1:2375, but an agent runs on the machine of its engine\nhint: "},
		{keys + "/agent", "unix:///nonexistent", nil, 1, "The container engine does not answer."},
		{keys + "/agent", socket, []string{"--listen", "2376"}, 2, "is not an address such as"},
		{keys + "/agent", socket, []string{"--listen", "192.0.2.1:1"}, 1, "agent: listen tcp 192.0.2.1:1: "},
		{keys + "/agent", socket, []string{"--shutdown-grace", "soon"}, 2, `"soon" is not a time such as 30s or 5m`},
	} {
		t.Setenv("IGLU_AGENT_KEYS", test.keys)
		t.Setenv("DOCKER_HOST", test.host)
		wantFailure(t, test.code, append([]string{"agent"}, test.args...), test.want)
	}
	t.Setenv("IGLU_AGENT_KEYS", keys+"/agent")
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:2376")
	wantFailure(t, 1, []string{"stores"}, "IGLU_AGENT_KEYS has the keys of agents\nhint: a server needs those in DIR/server")
	t.Setenv("IGLU_AGENT_KEYS", "")
	wantFailure(t, 1, []string{"agent", "check"}, "no keys: ")
	wantFailure(t, 1, []string{"agent", "check", "--no-such-flag"}, "unknown flag")
}

func wantFailure(t *testing.T, wantCode int, args []string, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, args, nil, &stdout, &stderr); code != wantCode || !strings.Contains(stderr.String(), want) {
		t.Errorf("%v: exit code %d, %q, want %d, %q", args, code, &stderr, wantCode, want)
	}
}

// anEngine returns the socket of a fake engine without running containers.
func anEngine(t *testing.T) (socket string) {
	t.Helper()
	folder, err := os.MkdirTemp("", "agent-") // short, for the sake of the socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	socket = filepath.Join(folder, "engine.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	engine := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Write([]byte("[]"))
	})}}
	engine.Start()
	t.Cleanup(engine.Close)
	return socket
}
