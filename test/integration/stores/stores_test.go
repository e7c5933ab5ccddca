//go:build integration

package stores

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/fixture"
)

// storeServer starts a builder that keeps a store for each repository.
func storeServer(t *testing.T, e *fixture.Engine, change func(*server.Settings)) *fixture.Server {
	t.Helper()
	return e.Server(t, func(s *server.Settings) {
		s.Store = stores.Repository
		s.AllowedCommands = append(s.AllowedCommands, "nix-store")
		change(s)
	})
}

// repository publishes a repository with a derivation, and returns its URL.
func repository(t *testing.T, script string) string {
	t.Helper()
	name := "store-" + strings.ToLower(rand.Text()[:10])
	if err := fixture.Env.Git.Commit(name, "main", map[string]string{"default.nix": fixture.Derivation(name, script)}); err != nil {
		t.Fatal(err)
	}
	return fixture.Env.Git.Public + "/" + name
}

// storeVolumes returns the volumes of a server's stores on the engine.
func storeVolumes(t *testing.T, s *fixture.Server) []string {
	t.Helper()
	return slices.DeleteFunc(s.OnEngine("volume"), func(name string) bool { return !strings.Contains(name, "-store-") })
}

// volumeFolder returns the folder of a volume on this machine.
func volumeFolder(t *testing.T, s *fixture.Server, volume string) string {
	t.Helper()
	return strings.TrimSpace(fixture.Docker(t, "--host", s.Host, "volume", "inspect", "--format", "{{.Mountpoint}}", volume))
}

const (
	fillingStore   = "iglu: creating this job's Nix store from the image: "
	verifyingStore = "iglu: the last job in this store was interrupted, or the machine was: verifying the store"
	damagedStore   = "iglu: the job cannot begin with this store: it is damaged"
)

func hasLine(r fixture.Result, text string) bool {
	return slices.ContainsFunc(r.Lines, func(line string) bool { return strings.Contains(line, text) })
}

// onlyPath returns the store path that a job has printed.
func onlyPath(t *testing.T, r fixture.Result) string {
	t.Helper()
	paths := r.Paths()
	if len(paths) != 1 {
		t.Fatalf("it has not printed one store path: %v", r.Lines)
	}
	return paths[0]
}

// TestWarmStore builds a derivation twice, and then another one of the same repository, in a kept store.
func TestWarmStore(t *testing.T) { fixture.OnEngines(t, warmStore) }

func warmStore(t *testing.T, e *fixture.Engine) {
	s := storeServer(t, e, func(*server.Settings) {})
	url := repository(t, "echo it is built now; echo > $out")
	const line = "nix-build"
	first := fixture.Do(t, s, fixture.Build(url, line))
	fixture.WantExit(t, first, 0)
	fixture.WantLine(t, first, fillingStore)
	fixture.WantLine(t, first, "iglu: the store was filled in ")
	fixture.WantLine(t, first, "it is built now")
	second := fixture.Do(t, s, fixture.Build(url, line))
	fixture.WantExit(t, second, 0)
	if hasLine(second, "it is built now") || hasLine(second, fillingStore) {
		t.Errorf("the second job has a new store: %v", second.Lines)
	}
	if one, two := onlyPath(t, first), onlyPath(t, second); one != two {
		t.Errorf("two results: %s and %s", one, two)
	}

	// Nix's caches of evaluations and fetched sources are kept too.
	cache := "sh -c 'echo $XDG_CACHE_HOME && mkdir -p $XDG_CACHE_HOME && date >> $XDG_CACHE_HOME/seen && wc -l < $XDG_CACHE_HOME/seen'"
	fixture.Do(t, s, fixture.Build(url, cache))
	fixture.WantLine(t, fixture.Do(t, s, fixture.Build(url, cache)), "2")

	// The store is also kept after a restart.
	instance, state := s.Instance, s.StateDir
	s.End(t)
	again := storeServer(t, e, func(s *server.Settings) { s.Instance, s.StateDir = instance, state })
	if third := fixture.Do(t, again, fixture.Build(url, line)); hasLine(third, "it is built now") {
		t.Errorf("after a restart, the job has a new store: %v", third.Lines)
	}
}

// TestStoresApart runs a job that looks for outputs of another repository's jobs, and leaves files for them.
func TestStoresApart(t *testing.T) { fixture.OnEngines(t, storesApart) }

func storesApart(t *testing.T, e *fixture.Engine) {
	s := storeServer(t, e, func(s *server.Settings) { s.JobUser = orchestrator.UserRoot })
	a, b := repository(t, "echo the secret of A > $out"), repository(t, "echo > $out")
	built := fixture.Do(t, s, fixture.Build(a, "nix-build"))
	fixture.WantExit(t, built, 0)
	path := onlyPath(t, built)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(b, "sh -c 'mkdir -p "+path+"-b && echo > /nix/var/b-was-here && echo > /nix/b-was-here'")), 0)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(b, "sh -c 'cat "+path+"; grep -rs \"the secret of A\" /nix /source /root /tmp'")), 1)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(a, "sh -c 'cat "+path+" && ! ls -d /nix/b-was-here /nix/var/b-was-here "+path+"-b'")), 0)

	// A job without a repository shares no store, and cannot reach the other volume through the engine's devices.
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'cat "+path+"'")), 1)
	if n := len(storeVolumes(t, s)); n != 2 {
		t.Errorf("%d stores for two repositories", n)
	}

	// Another instance has other stores, even with the same state folder.
	other := storeServer(t, e, func(s *server.Settings) { s.JobUser = orchestrator.UserRoot })
	fixture.WantExit(t, fixture.Do(t, other, fixture.Build(a, "sh -c 'cat "+path+"'")), 1)
	runStores(t, other, "rm", "--all")
	if len(storeVolumes(t, other)) != 0 || len(storeVolumes(t, s)) != 2 {
		t.Errorf("stores of one instance: %v, of the other: %v", storeVolumes(t, other), storeVolumes(t, s))
	}
}

// TestStoreOfNewImage changes the job image. Jobs of the new image get a new store.
func TestStoreOfNewImage(t *testing.T) { fixture.OnEngines(t, storeOfNewImage) }

func storeOfNewImage(t *testing.T, e *fixture.Engine) {
	tag := "iglu-test-image:" + strings.ToLower(rand.Text()[:10])
	e.Docker(t, "tag", fixture.Env.Image, tag)
	e.CleanUp(t, "image", "rm", tag)
	s := storeServer(t, e, func(s *server.Settings) { s.JobImage = tag })
	url := repository(t, "echo > $out")
	const look = "sh -c 'ls /nix/var/of-the-new-image'"
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, look)), 2)

	change := e.Docker(t, "create", tag)
	e.CleanUp(t, "rm", "--force", change)
	empty := filepath.Join(t.TempDir(), "of-the-new-image")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e.Docker(t, "cp", empty, change+":/nix/var/of-the-new-image")
	e.Commit(t, change, tag)
	got := fixture.Do(t, s, fixture.Build(url, look))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, fillingStore)
	if n := len(storeVolumes(t, s)); n != 2 {
		t.Errorf("%d stores for two images", n)
	}
}

// runStores runs the command stores for a server's stores, and returns its output.
func runStores(t *testing.T, s *fixture.Server, args ...string) fixture.Result {
	t.Helper()
	output, code := tryStores(s, args...)
	if code != 0 {
		t.Errorf("%v: exit code %d: %s", args, code, output)
	}
	return fixture.Result{Lines: strings.Split(output, "\n")}
}

// tryStores is runStores for a command that may fail.
func tryStores(s *fixture.Server, args ...string) (output string, code int) {
	command := exec.Command(fixture.Env.Program, append([]string{"stores", "--instance", s.Instance, "--state-dir", s.StateDir}, args...)...)
	command.Env = (&fixture.Engine{Host: s.Host}).Environ()
	text, _ := command.CombinedOutput()
	return string(text), command.ProcessState.ExitCode()
}

// TestNoSecretsInStore looks for a job's secrets in everything that its store keeps.
func TestNoSecretsInStore(t *testing.T) { fixture.OnEngines(t, noSecretsInStore) }

func noSecretsInStore(t *testing.T, e *fixture.Engine) {
	s := storeServer(t, e, func(s *server.Settings) { s.Store = stores.Shared }) // so that there is one store to search
	for _, j := range []fixture.Job{
		fixture.Env.Git.WithKey(fixture.Build(fixture.Env.Git.Private+"/hello", "nix build -L"), fixture.GitPassword),
		fixture.Env.Git.WithKey(fixture.Build(fixture.Env.Git.Private+"/hello", "nix build -L git+"+fixture.Env.Git.Private+"/hello"), fixture.GitPassword),
		fixture.Env.Git.WithKey(fixture.Build(fixture.Env.Git.SSH+"/hello", "nix build -L"), fixture.Env.Git.Key),
	} {
		fixture.WantExit(t, fixture.Do(t, s, j), 0)
	}
	for _, volume := range storeVolumes(t, s) {
		err := filepath.WalkDir(volumeFolder(t, s, volume), func(path string, entry os.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return fixture.CheckSecrets(string(text))
		})
		if err != nil {
			t.Error(err)
		}
	}
}
