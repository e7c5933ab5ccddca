//go:build integration

package isolation

import (
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestSecretsStayInside runs builds that look for the job's secrets wherever a process in the container can
// look. fixture.Client checks that no message contains a secret.
func TestSecretsStayInside(t *testing.T) { fixture.OnEngines(t, secretsStayInside) }

func secretsStayInside(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	g := &fixture.Env.Git
	cache := fixture.NewCache(t)
	tests := []struct {
		name    string
		command string
		code    int
		line    string // shows that the build has looked
	}{
		{"memory of PID 1", `sh -c 'for f in environ mem maps fd/0 cwd/etc root/etc; do cat /proc/1/$f; done; echo looked'`, 0, "looked"},
		{"environments of all processes", `sh -c 'cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr "\0" "\n"'`, 0, "NIX_CONFIG="},
		{"environment of a build", `nix-build -E 'derivation { name = "env"; system = builtins.currentSystem; builder = "/bin/sh"; args = ["-c" "export; echo > $out"]; }'`, 0, "NIX_BUILD_TOP"},
		{"files", "sh -c 'grep -rls -e hunter2 -e " + g.KeyLines[1][:10] + " -e " + fixture.APIKey[:10] + " -e " + fixture.SigningKey[:10] +
			" /tmp /root /run /source /etc /var /dev/shm /iglu* /nix && exit 9; echo looked'", 0, "looked"},
		// In the long suite also:
		{"environment of PID 1", `nix eval --impure --expr 'builtins.readFile "/proc/1/environ"'`, 1, "Permission denied"},
		{"own environment", `env`, 0, "NIX_CONFIG="},
		{"environment of Nix", `nix eval --impure --raw --expr 'builtins.concatStringsSep "," (map builtins.getEnv ["IGLU_GIT_KEY" "CACHIX_AUTH_TOKEN" "CACHIX_SIGNING_KEY" "PATH"])'`, 0, ",,,/root"},
		{"git's configuration", `sh -c 'cat .git/config; git config --list --show-origin'`, 0, "remote.origin.url"},
	}
	keys := []struct{ name, repository, key string }{
		{"private key", g.SSH + "/hello", g.Key},
		{"password", g.Private + "/hello", fixture.GitPassword}, // in the long suite only
	}
	for _, key := range keys[:fixture.Size(1, 2)] {
		for _, test := range tests[:fixture.Size(4, len(tests))] {
			t.Run(key.name+"/"+test.name, func(t *testing.T) {
				j := g.WithKey(fixture.Build(key.repository, test.command), key.key)
				got := fixture.Do(t, s, cache.Pushing(j))
				fixture.WantExit(t, got, test.code)
				fixture.WantLine(t, got, test.line)
			})
		}
	}
}
