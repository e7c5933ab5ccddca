//go:build integration

package stores

import (
	"crypto/rand"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// The tests in this file are about the job image: its properties, which must be those of nixos/nix, and their effects.

// look is a script that prints differences from nixos/nix.
const look = `
fault() { echo "not like nixos/nix: $*"; }
in_store() { case $(readlink -f "$1") in /nix/store/*) ;; *) fault "$1 is not in the store" ;; esac; }
for tool in nix nix-daemon nix-store nix-collect-garbage git bash sh cp tar gzip grep which curl less wget find ssh; do
	in_store "$(command -v $tool)"
done
for tool in git-lfs cachix sed xz perl; do
	! command -v $tool || fault "there is $tool"
done
for link in /bin/sh /usr/bin/env /etc/passwd /etc/group /etc/nix/nix.conf /root/.nix-profile /etc/ssl/certs/ca-bundle.crt; do
	[ -L $link ] || fault "$link is no link"
	in_store $link
done
in_store "$SSL_CERT_FILE"
for file in /bin/* /usr/bin/* /lib /lib64 /usr/lib /sbin; do
	case $file in /bin/sh | /usr/bin/env) ;; *) [ ! -e $file ] || fault "there is $file" ;; esac
done
for file in $(command -v nix git) /bin/sh /etc/passwd /etc/nix/nix.conf; do
	path=$(readlink -f $file)
	name=${path#/nix/store/}
	nix-store --query --hash /nix/store/${name%%/*} >/dev/null || fault "Nix does not know $path"
done
[ -n "$(nix-store --query --references $(readlink -f /nix/var/nix/profiles/default))" ] || fault "the profile refers to nothing"
echo looked
`

// TestImageIsLikeNixosNix checks the job image, which is nixos/nix or a replacement: see docs/job-image.md.
func TestImageIsLikeNixosNix(t *testing.T) {
	if err := fixture.Env.Git.Commit("look", "main", map[string]string{"look.sh": look}); err != nil {
		t.Fatal(err)
	}
	// The job runs as root, because then the accounts of the image are not changed.
	s := fixture.ServerWith(t, func(s *server.Settings) { s.JobUser = orchestrator.UserRoot })
	got := fixture.Do(t, s, fixture.Build(fixture.Env.Git.Public+"/look", "sh look.sh"))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "looked")
	for _, line := range got.Lines {
		if strings.Contains(line, "not like nixos/nix: ") {
			t.Error(line)
		}
	}
}

// toolRepository publishes a flake with the program tool, and returns its URL.
func toolRepository(t *testing.T) string {
	t.Helper()
	name := "tool-" + strings.ToLower(rand.Text()[:10])
	err := fixture.Env.Git.Commit(name, "main", map[string]string{"flake.nix": `{
  outputs = { self }: {
    packages.x86_64-linux.default = derivation {
      name = "` + name + `"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin";
      args = [ "-c" "mkdir -p $out/bin; printf '#!/bin/sh\necho I am the tool\n' > $out/bin/tool; chmod +x $out/bin/tool; exit" ];
    };
  };
}`})
	if err != nil {
		t.Fatal(err)
	}
	return fixture.Env.Git.Public + "/" + name
}

// TestProfileAndGarbage runs jobs that collect garbage, and a job as root that installs a program into the image's
// profile. The next job with the store has all tools and the installed program.
func TestProfileAndGarbage(t *testing.T) { fixture.OnEngines(t, profileAndGarbage) }

func profileAndGarbage(t *testing.T, e *fixture.Engine) {
	const log = "sh -c 'git log --oneline'"
	jobs := []struct {
		user  orchestrator.JobUser
		lines []string
	}{
		{orchestrator.UserRoot, []string{"nix profile add .", "nix-collect-garbage -d", "tool", log}},
		// In the long suite also:
		{orchestrator.UserNix, []string{"nix build", "nix-collect-garbage -d", "nix build", log}},
	}
	for _, test := range jobs[:fixture.Size(1, len(jobs))] {
		user, lines := test.user, test.lines
		t.Run(string(user), func(t *testing.T) {
			s := storeServer(t, e, func(s *server.Settings) {
				s.JobUser, s.AllowedCommands = user, append(s.AllowedCommands, "nix-collect-garbage", "tool")
			})
			url := toolRepository(t)
			for n, line := range lines {
				got := fixture.Do(t, s, fixture.Build(url, line))
				fixture.WantExit(t, got, 0)
				if line == "tool" {
					fixture.WantLine(t, got, "I am the tool")
				}
				if n > 0 && hasLine(got, fillingStore) {
					t.Errorf("%s: the job does not have the store of the previous job: %v", line, got.Lines)
				}
			}
		})
	}
}

// TestKilledCommand runs a command that exits with the code of a killed program. Its store is not verified because of
// that.
func TestKilledCommand(t *testing.T) { fixture.OnEngines(t, killedCommand) }

func killedCommand(t *testing.T, e *fixture.Engine) {
	s := storeServer(t, e, func(*server.Settings) {})
	url := repository(t, "echo > $out")
	for range 2 {
		got := fixture.Do(t, s, fixture.Build(url, `sh -c 'exit 137'`))
		fixture.WantExit(t, got, 137)
		if hasLine(got, verifyingStore) {
			t.Errorf("the store is verified: %v", got.Lines)
		}
	}
}

// TestStoreVariables pushes from a job in an image whose variables set other folders for Nix.
func TestStoreVariables(t *testing.T) { fixture.OnEngines(t, storeVariables) }

func storeVariables(t *testing.T, e *fixture.Engine) {
	image := "variables-test:" + strings.ToLower(fixture.Env.Server.Instance)
	// One instruction per variable: Podman reads further variables as a part of the first value.
	e.ChangeImage(t, fixture.Env.Image, image, "ENV NIX_REMOTE=daemon", "ENV NIX_STORE_DIR=/no/store", "ENV NIX_STATE_DIR=/no/state",
		"ENV NIX_LOG_DIR=/no/log", "ENV NIX_DAEMON_SOCKET_PATH=/no/socket", "ENV NIX_CACHE_HOME=/no/cache", "ENV NIX_CONF_DIR=/etc/nix")
	s := e.Server(t, func(s *server.Settings) { s.JobImage = image })
	c := fixture.NewCache(t)
	got := fixture.Do(t, s, c.Pushing(fixture.Command(shellwords.Join([]string{"nix-build", "-E", fixture.Derivation("variables", "echo > $out")}))))
	fixture.WantExit(t, got, 0)
	fixture.WantNames(t, c, []string{"variables"})
	for _, name := range []string{"NIX_REMOTE", "NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOG_DIR", "NIX_DAEMON_SOCKET_PATH", "NIX_CACHE_HOME"} {
		fixture.WantLine(t, got, "iglu: "+name+" of the job image is not passed on: a job's Nix store is the container's own")
	}
	if hasLine(got, "NIX_CONF_DIR of the job image") {
		t.Errorf("NIX_CONF_DIR is removed: %v", got.Lines)
	}
}

// TestImageSettings checks Nix's settings in an image that has its own nix.conf.
func TestImageSettings(t *testing.T) { fixture.OnEngines(t, imageSettings) }

func imageSettings(t *testing.T, e *fixture.Engine) {
	image, container := "settings-test:"+strings.ToLower(fixture.Env.Server.Instance), "settings-test-"+strings.ToLower(fixture.Env.Server.Instance)
	e.CleanUp(t, "image", "rm", image)
	e.CleanUp(t, "rm", container)
	e.Docker(t, "run", "--name", container, fixture.Env.Image, "/bin/sh", "-c", `conf=$(cat /etc/nix/nix.conf) && rm /etc/nix/nix.conf &&
		printf '%s\n' "$conf" "max-jobs = 7" "cores = 3" "connect-timeout = 11" "extra-substituters = http://image.invalid" > /etc/nix/nix.conf`)
	e.Commit(t, container, image)
	// Root also has the settings of the store. For other users they are settings of the daemon.
	s := e.Server(t, func(s *server.Settings) { s.JobImage, s.JobUser = image, orchestrator.UserRoot })
	j := fixture.Command("nix config show")
	cores := schemas.Integer(2)
	j.BuildOptions.Cores = &cores
	j.BuildOptions.Substituters = []string{"http://job.invalid"}
	got := fixture.Do(t, s, j)
	fixture.WantExit(t, got, 0)
	for _, line := range []string{"max-jobs = 7", "connect-timeout = 11", "cores = 2", "build-users-group = nixbld"} {
		fixture.WantLine(t, got, line)
	}
	for _, substituter := range []string{"http://image.invalid", "http://job.invalid"} {
		fixture.WantLine(t, got, substituter)
	}
}
