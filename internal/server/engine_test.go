package server

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"iglu.sh/builder/internal/agent"
)

// TestEngineAddress sets DOCKER_HOST to what is no address of an engine.
func TestEngineAddress(t *testing.T) {
	const hint = "\nhint: set DOCKER_HOST to the engine's address, such as unix:///var/run/docker.sock"
	for address, want := range map[string]string{
		"":                            "",
		"unix:///var/run/docker.sock": "",
		"tcp://node-1:2376":           "",
		"/var/run/docker.sock":        "configure the connection to the engine: unable to parse docker host `/var/run/docker.sock`" + hint,
		"ssh://me@node-1":             "DOCKER_HOST is an address with ssh://, which the builder cannot use: on another machine it needs an agent\nhint: see docs/several-machines.md",
	} {
		t.Setenv("DOCKER_HOST", address)
		engine, err := new(Settings).openOne("", slog.New(slog.DiscardHandler))
		if got := errText(err); got != want {
			t.Errorf("%s: %s", address, got)
		}
		if err == nil {
			engine.Close()
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestAgentKeys has an engine be reached through an agent, with settings that do and do not fit.
func TestAgentKeys(t *testing.T) {
	folder := t.TempDir()
	if err := agent.MakeKeys(folder, nil); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(folder, "server")
	const noAddress = "IGLU_AGENT_KEYS is set, and DOCKER_HOST does not say where the agent listens\nhint: DOCKER_HOST=tcp://HOST:2376"
	for _, test := range []struct{ keys, host, environ, want string }{
		{keys, "", "tcp://node-1:2376", ""},
		{keys, "tcp://node-1:2376", "unix:///run/docker.sock", ""},
		{"", "", "unix:///run/docker.sock", ""},
		{keys, "", "", noAddress},
		{keys, "", "unix:///run/docker.sock", noAddress},
		{keys, "tcp://node-1", "", noAddress},
		{folder, "tcp://node-1:2376", "", "read the keys in IGLU_AGENT_KEYS: open " + folder + "/cert.pem: no such file or directory\nhint: "},
	} {
		t.Setenv("DOCKER_HOST", test.environ)
		s := Settings{AgentKeys: test.keys, EngineHost: test.host}
		engine, err := s.openOne("", slog.New(slog.DiscardHandler))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)) {
			t.Errorf("%+v: %v", test, err)
		}
		if err == nil {
			engine.Close()
		}
	}
}
