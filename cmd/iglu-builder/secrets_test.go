package main

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/gitserver"
)

// passwordThief is a server that wants credentials and answers with those it gets.
type passwordThief struct{}

func (passwordThief) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, ok := r.BasicAuth(); ok {
		http.Error(w, "got "+user+" "+password, http.StatusForbidden)
		return
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
	w.WriteHeader(http.StatusUnauthorized)
}

// TestSecretsStayInside runs builds that look for the job's secrets wherever a
// process of the container can look. That no message holds one is checked with each
// message, by client.read.
func TestSecretsStayInside(t *testing.T) { onEngines(t, secretsStayInside) }

func secretsStayInside(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	g := &world.git
	cache := newCache(t)
	tests := []struct {
		name    string
		command string
		code    int
		line    string // shows that the look was taken
	}{
		{"environment of PID 1", `nix eval --impure --expr 'builtins.readFile "/proc/1/environ"'`, 1, "Permission denied"},
		{"memory of PID 1", `sh -c 'for f in environ mem maps fd/0 cwd/etc root/etc; do cat /proc/1/$f; done; echo looked'`, 0, "looked"},
		{"own environment", `env`, 0, "NIX_CONFIG="},
		{"environment of Nix", `nix eval --impure --raw --expr 'builtins.concatStringsSep "," (map builtins.getEnv ["IGLU_GIT_KEY" "CACHIX_AUTH_TOKEN" "CACHIX_SIGNING_KEY" "PATH"])'`, 0, ",,,/root"},
		{"environment of a build", `nix-build -E 'derivation { name = "env"; system = builtins.currentSystem; builder = "/bin/sh"; args = ["-c" "export; echo > $out"]; }'`, 0, "NIX_BUILD_TOP"},
		{"environments of all processes", `sh -c 'cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr "\0" "\n"'`, 0, "NIX_CONFIG="},
		{"files", "sh -c 'grep -rls -e hunter2 -e " + g.keyLines[1][:10] + " -e " + apiKey[:10] + " -e " + signingKey[:10] +
			" /tmp /root /run /source /etc /var /dev/shm /iglu* /nix && exit 9; echo looked'", 0, "looked"},
		{"git's configuration", `sh -c 'cat .git/config; git config --list --show-origin'`, 0, "remote.origin.url"},
	}
	for _, key := range []struct{ name, repository, key string }{
		{"password", g.private + "/hello", gitPassword},
		{"private key", g.ssh + "/hello", g.key},
	} {
		for _, test := range tests {
			t.Run(key.name+"/"+test.name, func(t *testing.T) {
				j := g.withKey(build(key.repository, test.command), key.key)
				got := do(t, s, cache.pushing(j))
				wantExit(t, got, test.code)
				wantLine(t, got, test.line)
			})
		}
	}
}

// gitIn runs git in a repository of the tests.
func gitIn(repository string, args ...string) error {
	return gitserver.Git(filepath.Join(world.git.root, repository), args...)
}

// docker runs the engine's own client and returns what it prints.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	output, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, output)
	}
	return strings.TrimSpace(string(output))
}
