package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/orchestrator"
)

// storeServer starts a builder that keeps a store for each repository.
func (e *site) storeServer(t *testing.T, change func(*settings)) *server {
	t.Helper()
	return e.server(t, func(s *settings) {
		s.store = orchestrator.StoreRepository
		s.allowedCommands = append(s.allowedCommands, "nix-store")
		change(s)
	})
}

// repository publishes one with a derivation, and returns its URL.
func repository(t *testing.T, script string) string {
	t.Helper()
	name := "store-" + strings.ToLower(rand.Text()[:10])
	if err := world.git.commit(name, "main", map[string]string{"default.nix": derivation(name, script)}); err != nil {
		t.Fatal(err)
	}
	return world.git.public + "/" + name
}

// volumes returns the stores that a server has on the engine.
func (s *server) volumes(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(s.onEngine("volume"), func(name string) bool { return !strings.Contains(name, "-store-") })
}

// folder returns where a volume lies on this machine.
func (s *server) folder(t *testing.T, volume string) string {
	t.Helper()
	return strings.TrimSpace(docker(t, "--host", s.host, "volume", "inspect", "--format", "{{.Mountpoint}}", volume))
}

// size returns what a server's stores take of the disk, in bytes.
func (s *server) size(t *testing.T) (bytes int64) {
	t.Helper()
	for _, volume := range s.volumes(t) {
		output, err := exec.Command("du", "-s", "--block-size=1", s.folder(t, volume)).Output()
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseInt(strings.Fields(string(output))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		bytes += n
	}
	return bytes
}

const (
	fillingStore   = "iglu: this job begins with the image's own Nix store: filling "
	verifyingStore = "iglu: the job that had this store before did not end by itself: verifying the store"
	damagedStore   = "iglu: the store is damaged and is removed"
)

func hasLine(r result, text string) bool {
	return slices.ContainsFunc(r.lines, func(line string) bool { return strings.Contains(line, text) })
}

// TestWarmStore builds one thing twice, and then another of the same repository.
func TestWarmStore(t *testing.T) { onEngines(t, warmStore) }

func warmStore(t *testing.T, e *site) {
	s := e.storeServer(t, func(*settings) {})
	url := repository(t, "echo it is built now; echo > $out")
	const line = "nix-build"
	first := do(t, s, build(url, line))
	wantExit(t, first, 0)
	wantLine(t, first, fillingStore)
	wantLine(t, first, "iglu: the store was filled in ")
	wantLine(t, first, "it is built now")
	second := do(t, s, build(url, line))
	wantExit(t, second, 0)
	if hasLine(second, "it is built now") || hasLine(second, fillingStore) {
		t.Errorf("the second job begins anew: %v", second.lines)
	}
	if first.lines[len(first.lines)-1] != second.lines[len(second.lines)-1] {
		t.Errorf("two results: %v and %v", first.lines, second.lines)
	}

	// What Nix has evaluated and fetched is there, too.
	cache := "sh -c 'echo $XDG_CACHE_HOME && mkdir -p $XDG_CACHE_HOME && date >> $XDG_CACHE_HOME/seen && wc -l < $XDG_CACHE_HOME/seen'"
	do(t, s, build(url, cache))
	wantLine(t, do(t, s, build(url, cache)), "2")

	// After a restart as well.
	instance, state := s.instance, s.stateDir
	s.end(t)
	again := e.storeServer(t, func(s *settings) { s.instance, s.stateDir = instance, state })
	if third := do(t, again, build(url, line)); hasLine(third, "it is built now") {
		t.Errorf("after a restart, the job begins anew: %v", third.lines)
	}
}

// TestStoresApart has a job of one repository look for what another built, and leave
// something behind for it.
func TestStoresApart(t *testing.T) { onEngines(t, storesApart) }

func storesApart(t *testing.T, e *site) {
	s := e.storeServer(t, func(s *settings) { s.jobUser = orchestrator.UserRoot })
	a, b := repository(t, "echo the secret of A > $out"), repository(t, "echo > $out")
	built := do(t, s, build(a, "nix-build"))
	wantExit(t, built, 0)
	path := built.lines[len(built.lines)-1]
	wantExit(t, do(t, s, build(b, "sh -c 'mkdir -p "+path+"-b && echo > /nix/var/b-was-here && echo > /nix/b-was-here'")), 0)
	wantExit(t, do(t, s, build(b, "sh -c 'cat "+path+"; grep -rs \"the secret of A\" /nix /source /root /tmp'")), 1)
	wantExit(t, do(t, s, build(a, "sh -c 'cat "+path+" && ! ls -d /nix/b-was-here /nix/var/b-was-here "+path+"-b'")), 0)

	// Without a repository there is nothing to share, and with the engine's own devices
	// there is no way to the other volume.
	wantExit(t, do(t, s, command("sh -c 'cat "+path+"'")), 1)
	if n := len(s.volumes(t)); n != 2 {
		t.Errorf("%d stores for two repositories", n)
	}

	// Not even where a builder has the same state: another instance has other stores.
	other := e.storeServer(t, func(s *settings) { s.jobUser = orchestrator.UserRoot })
	wantExit(t, do(t, other, build(a, "sh -c 'cat "+path+"'")), 1)
	stores(t, other, "rm", "--all")
	if len(other.volumes(t)) != 0 || len(s.volumes(t)) != 2 {
		t.Errorf("stores of one instance: %v, of the other: %v", other.volumes(t), s.volumes(t))
	}
}

// TestSharedStore has all jobs share one store, and none of them keep one.
func TestSharedStore(t *testing.T) { onEngines(t, sharedStore) }

func sharedStore(t *testing.T, e *site) {
	shared := e.storeServer(t, func(s *settings) { s.store, s.jobUser = orchestrator.StoreShared, orchestrator.UserRoot })
	url := repository(t, "echo > $out")
	wantExit(t, do(t, shared, command("sh -c 'echo > /nix/was-here'")), 0)
	wantExit(t, do(t, shared, build(url, "sh -c 'cat /nix/was-here'")), 0)
	wantLine(t, stores(t, shared), "(all jobs)")

	ephemeral := e.storeServer(t, func(s *settings) { s.store = orchestrator.StoreEphemeral })
	wantExit(t, do(t, ephemeral, build(url, "nix-build")), 0)
	if found := ephemeral.volumes(t); len(found) > 0 {
		t.Errorf("stores: %v", found)
	}
}

// TestStoreOfNewImage changes the job image: its jobs get its own store.
func TestStoreOfNewImage(t *testing.T) { onEngines(t, storeOfNewImage) }

func storeOfNewImage(t *testing.T, e *site) {
	tag := "iglu-test-image:" + strings.ToLower(rand.Text()[:10])
	e.docker(t, "tag", world.image, tag)
	e.cleanUp(t, "image", "rm", tag)
	s := e.storeServer(t, func(s *settings) { s.jobImage = tag })
	url := repository(t, "echo > $out")
	const look = "sh -c 'ls /nix/var/of-the-new-image'"
	wantExit(t, do(t, s, build(url, look)), 2)

	change := e.docker(t, "create", tag)
	e.cleanUp(t, "rm", "--force", change)
	empty := filepath.Join(t.TempDir(), "of-the-new-image")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e.docker(t, "cp", empty, change+":/nix/var/of-the-new-image")
	e.commit(t, change, tag)
	got := do(t, s, build(url, look))
	wantExit(t, got, 0)
	wantLine(t, got, fillingStore)
	if n := len(s.volumes(t)); n != 2 {
		t.Errorf("%d stores for two images", n)
	}
}

// TestStoreOfKilledJob kills jobs: one that is building, one that has damaged its store, and
// one whose builder is killed with it. The next finds a sound store.
func TestStoreOfKilledJob(t *testing.T) { onEngines(t, storeOfKilledJob) }

func storeOfKilledJob(t *testing.T, e *site) {
	flags := []string{"--job-image", world.image, "--allowed-commands", "sh,nix-build,nix-store", "--job-user", "root"}
	s := e.process(t, "test-process-"+strings.ToLower(rand.Text()[:10]), flags...)
	url := repository(t, "echo > $out")
	result := do(t, s, build(url, "nix-build"))
	wantExit(t, result, 0)
	path := result.lines[len(result.lines)-1]
	kill := func(script string) {
		c := connect(t, s)
		c.send(jsonOf(t, build(url, "sh -c '"+script+"; echo begun; sleep 1000'")))
		c.waitFor(`"begun"`)
		e.docker(t, "kill", s.containers()[0])
		c.finish()
	}
	verify := build(url, "nix-store --verify --check-contents")

	kill("true")
	got := do(t, s, verify)
	wantExit(t, got, 0)
	wantLine(t, got, verifyingStore)
	if hasLine(got, damagedStore) || hasLine(got, fillingStore) {
		t.Errorf("a sound store went: %v", got.lines)
	}
	if got := do(t, s, verify); hasLine(got, verifyingStore) {
		t.Errorf("it is verified again: %v", got.lines)
	}

	kill("chmod u+w " + path + "; echo damaged > " + path)
	got = do(t, s, verify)
	wantExit(t, got, 0)
	wantLine(t, got, damagedStore)
	wantLine(t, got, fillingStore)

	c := connect(t, s)
	c.send(jsonOf(t, build(url, "sh -c 'echo begun; sleep 1000'")))
	c.waitFor(`"begun"`)
	s.kill()
	next := startProcessIn(t, s.instance, s.stateDir, e.host, flags...)
	next.host = e.host
	got = do(t, next, verify)
	wantExit(t, got, 0)
	wantLine(t, got, verifyingStore)

	// Without a job that waits for it, it is done between jobs.
	s = next
	kill("true")
	if err := poll(3*time.Minute, func() bool { return strings.Contains(readStores(t, s), `"condition":"sound"`) }); err != nil {
		t.Errorf("the store stays as it is: %v, %s", err, readStores(t, s))
	}
	if got := do(t, s, verify); hasLine(got, verifyingStore) {
		t.Errorf("it is verified again: %v", got.lines)
	}
}

// readStores returns what a server has written down of its stores.
func readStores(t *testing.T, s *server) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.stateDir, s.instance, "stores", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// stores runs that command for a server's stores, and returns what it prints.
func stores(t *testing.T, s *server, args ...string) result {
	t.Helper()
	output, code := tryStores(s, args...)
	if code != 0 {
		t.Errorf("%v: exit code %d: %s", args, code, output)
	}
	return result{lines: strings.Split(output, "\n")}
}

// tryStores is stores for a command that may fail.
func tryStores(s *server, args ...string) (output string, code int) {
	command := exec.Command(world.program, append([]string{"stores", "--instance", s.instance, "--state-dir", s.stateDir}, args...)...)
	command.Env = (&site{host: s.host}).environ()
	text, _ := command.CombinedOutput()
	return string(text), command.ProcessState.ExitCode()
}

// TestStoresWithinLimit has ten repositories of 300 MB each build where there is room for
// 1 GB: the last two stay warm.
func TestStoresWithinLimit(t *testing.T) { onEngines(t, storesWithinLimit) }

func storesWithinLimit(t *testing.T, e *site) {
	const limit = 1_000_000_000
	repositories := 10
	if e.isPodman() {
		repositories = 4 // enough for the first to go
	}
	s := e.storeServer(t, func(s *settings) { s.storeMaxBytes = limit })
	var urls []string
	for range repositories {
		url := repository(t, "echo built anew; PATH=/nix/var/nix/profiles/default/bin; head -c 240M /dev/zero > $out")
		urls = append(urls, url)
		wantExit(t, do(t, s, build(url, "nix-build")), 0)
		if size := s.size(t); size > limit {
			t.Fatalf("after %d of %d repositories, their stores take %d bytes", len(urls), repositories, size)
		}
	}
	for _, url := range urls[repositories-2:] {
		if got := do(t, s, build(url, "nix-build")); hasLine(got, "built anew") || hasLine(got, fillingStore) {
			t.Errorf("one of the two most recent is cold: %v", got.lines)
		}
	}
	wantLine(t, do(t, s, build(urls[0], "nix-build")), fillingStore)
}

// TestStoreOfSomebodyElse has somebody use a store that is to make room: jobs run all the same,
// and it goes when it can.
func TestStoreOfSomebodyElse(t *testing.T) { onEngines(t, storeOfSomebodyElse) }

func storeOfSomebodyElse(t *testing.T, e *site) {
	s := e.storeServer(t, func(s *settings) { s.storeMaxBytes = 1 })
	a, b := repository(t, "echo > $out"), repository(t, "echo > $out")
	wantExit(t, do(t, s, build(a, "nix-build")), 0)
	used := s.volumes(t)[0]
	holder := strings.TrimSpace(e.docker(t, "create", "--network", "none", "--volume", used+":/held", world.image, "true"))
	wantExit(t, do(t, s, build(b, "nix-build")), 0)
	if !slices.Contains(s.volumes(t), used) {
		t.Error("the engine removes what is in use")
	}
	e.docker(t, "rm", holder)
	if err := poll(3*time.Minute, func() bool { return !slices.Contains(s.volumes(t), used) }); err != nil {
		t.Errorf("the store stays: %v", s.volumes(t))
	}
}

// TestStoreAlone has one store grow beyond the limit: its garbage goes while no job is there.
func TestStoreAlone(t *testing.T) { onEngines(t, storeAlone) }

func storeAlone(t *testing.T, e *site) {
	const limit = 500_000_000
	s := e.storeServer(t, func(s *settings) { s.storeMaxBytes = limit })
	url := repository(t, "echo > $out")
	big := func(n int) string {
		return fmt.Sprintf(`nix-build -E '%s'`, derivation(fmt.Sprint("big-", n), "PATH=/nix/var/nix/profiles/default/bin; head -c 200M /dev/zero > $out"))
	}
	for n := range 3 {
		wantExit(t, do(t, s, build(url, strings.ReplaceAll(big(n), `\"`, `"`))), 0)
	}
	if err := poll(3*time.Minute, func() bool { return s.size(t) <= limit }); err != nil {
		t.Errorf("the store takes %d bytes", s.size(t))
	}
	got := do(t, s, build(url, "nix-store --verify --check-contents"))
	wantExit(t, got, 0)
	if hasLine(got, fillingStore) {
		t.Errorf("the store went as a whole: %v", got.lines)
	}
}

var sizeInTable = regexp.MustCompile(`\d(\.\d+)?[MG]iB`)

// TestStoresCommand lists stores and removes them; then the disk is as before.
func TestStoresCommand(t *testing.T) { onEngines(t, listAndRemoveStores) }

func listAndRemoveStores(t *testing.T, e *site) {
	s := e.storeServer(t, func(*settings) {})
	a, b := repository(t, "echo > $out"), repository(t, "echo > $out")
	for _, url := range []string{a, b} {
		wantExit(t, do(t, s, build(url, "nix-build")), 0)
	}
	list := stores(t, s).lines
	if len(list) != 4 || !strings.Contains(list[1], b) || !strings.Contains(list[2], a) || !strings.Contains(list[1], s.image) ||
		!sizeInTable.MatchString(list[1]) || !strings.Contains(list[1], time.Now().Format("2006-01-02 ")) {
		t.Fatalf("got %q", list)
	}
	folders := []string{s.folder(t, s.volumes(t)[0]), s.folder(t, s.volumes(t)[1])}

	// One that a job has stays.
	c := connect(t, s)
	c.send(jsonOf(t, build(a, "sh -c 'echo begun; while [ ! -e /nix/go-on ]; do sleep 0.1; done'")))
	c.waitFor(`"begun"`)
	ended := c.inBackground() // so that it answers pings
	if output, code := tryStores(s, "rm", "--all"); code != 1 || !regexp.MustCompile("in use|being used").MatchString(output) {
		t.Errorf("exit code %d: %s", code, output)
	}
	if n := len(s.volumes(t)); n != 1 {
		t.Errorf("%d stores, of which a job has one", n)
	}
	if running := stores(t, s).lines[1]; !regexp.MustCompile(`\s[a-z0-9]{26}$`).MatchString(running) {
		t.Errorf("the job that has it is not told: %q", running)
	}
	if err := os.WriteFile(filepath.Join(s.folder(t, s.volumes(t)[0]), "go-on"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if last := (<-ended).messages; !strings.Contains(last[len(last)-1], `"buildExitCode":0`) {
		t.Errorf("got %v", last)
	}

	stores(t, s, "rm", s.volumes(t)[0])
	for _, folder := range folders {
		if _, err := os.Stat(folder); err == nil {
			t.Errorf("%s is left", folder)
		}
	}
	if left := readStores(t, s); left != "" {
		t.Errorf("left: %s", left)
	}
	for _, args := range [][]string{{"rm"}, {"rm", "--all", "name"}} {
		wantUsage(t, append([]string{"stores"}, args...), "name the stores, or say --all")
	}
	if output, code := tryStores(s, "rm", "nothing"); code != 1 || !strings.Contains(output, "there is no store nothing") {
		t.Errorf("exit code %d: %s", code, output)
	}
}

// TestNoSecretsInStore looks for a job's secrets in everything that its store keeps.
func TestNoSecretsInStore(t *testing.T) { onEngines(t, noSecretsInStore) }

func noSecretsInStore(t *testing.T, e *site) {
	s := e.storeServer(t, func(*settings) {})
	for _, j := range []job{
		world.git.withKey(build(world.git.private+"/hello", "nix build -L"), gitPassword),
		world.git.withKey(build(world.git.private+"/hello", "nix build -L git+"+world.git.private+"/hello"), gitPassword),
		world.git.withKey(build(world.git.ssh+"/hello", "nix build -L"), world.git.key),
	} {
		wantExit(t, do(t, s, j), 0)
	}
	for _, volume := range s.volumes(t) {
		err := filepath.WalkDir(s.folder(t, volume), func(path string, entry os.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return checkSecrets(string(text))
		})
		if err != nil {
			t.Error(err)
		}
	}
}
