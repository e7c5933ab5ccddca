//go:build integration && long

package stores

import (
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

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/fixture"
)

// storesSizeOnDisk returns the size of a server's stores on the disk, in bytes.
func storesSizeOnDisk(t *testing.T, s *fixture.Server) (bytes int64) {
	t.Helper()
	for _, volume := range storeVolumes(t, s) {
		// du fails if files are removed meanwhile, but still prints the sum.
		output, failed := exec.Command("du", "-s", "--block-size=1", volumeFolder(t, s, volume)).Output()
		sum, _, _ := strings.Cut(string(output), "\t")
		n, err := strconv.ParseInt(sum, 10, 64)
		if err != nil {
			t.Fatal(err, failed)
		}
		bytes += n
	}
	return bytes
}

// TestStoresWithinLimit builds several repositories of 300 MB each with a limit of 1 GB for all stores. The stores of
// the last two are kept.
func TestStoresWithinLimit(t *testing.T) { fixture.OnEngines(t, storesWithinLimit) }

func storesWithinLimit(t *testing.T, e *fixture.Engine) {
	const limit = 1_000_000_000
	repositories := 10
	if e.IsPodman() {
		repositories = 4 // enough to have the first removed
	}
	s := storeServer(t, e, func(s *server.Settings) { s.StoreMaxBytes = limit })
	var urls []string
	for range repositories {
		url := repository(t, "echo built anew; PATH=/nix/var/nix/profiles/default/bin; head -c 160M /dev/zero > $out")
		urls = append(urls, url)
		fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, "nix-build")), 0)
		// The client learns of a job's end a moment before its store is released, which is when others
		// are removed to make room.
		const most = 3 // the limit has room for three
		err := fixture.AwaitEngine(e.Host, time.Minute, func() bool { return len(storeVolumes(t, s)) <= most })
		if size := storesSizeOnDisk(t, s); err != nil || size > limit {
			t.Fatalf("after %d of %d repositories, their stores take %d bytes: %v", len(urls), repositories, size, err)
		}
	}
	for _, url := range urls[repositories-2:] {
		if got := fixture.Do(t, s, fixture.Build(url, "nix-build")); hasLine(got, "built anew") || hasLine(got, fillingStore) {
			t.Errorf("the store of one of the last two was not kept: %v", got.Lines)
		}
	}
	fixture.WantLine(t, fixture.Do(t, s, fixture.Build(urls[0], "nix-build")), fillingStore)
}

// TestStoreOfSomebodyElse uses a store in another container when it should be removed to make room. Jobs still run, and
// the store is removed after it is released.
func TestStoreOfSomebodyElse(t *testing.T) { fixture.OnEngines(t, storeOfSomebodyElse) }

func storeOfSomebodyElse(t *testing.T, e *fixture.Engine) {
	s := storeServer(t, e, func(s *server.Settings) { s.StoreMaxBytes = 1 })
	a, b := repository(t, "echo > $out"), repository(t, "echo > $out")
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(a, "nix-build")), 0)
	used := storeVolumes(t, s)[0]
	holder := strings.TrimSpace(e.Docker(t, "create", "--network", "none", "--volume", used+":/held", fixture.Env.Image, "true"))
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(b, "nix-build")), 0)
	if !slices.Contains(storeVolumes(t, s), used) {
		t.Error("the engine has removed a volume that is in use")
	}
	e.Docker(t, "rm", holder)
	if err := fixture.AwaitEngine(e.Host, 3*time.Minute, func() bool { return !slices.Contains(storeVolumes(t, s), used) }); err != nil {
		t.Errorf("the store is not removed: %v", storeVolumes(t, s))
	}
}

// TestStoreAlone lets a single store exceed the limit. Its garbage is collected while no job is running.
func TestStoreAlone(t *testing.T) { fixture.OnEngines(t, storeAlone) }

func storeAlone(t *testing.T, e *fixture.Engine) {
	const limit = 500_000_000
	s := storeServer(t, e, func(s *server.Settings) { s.StoreMaxBytes = limit })
	url := repository(t, "echo > $out")
	big := func(n int) string {
		return fmt.Sprintf(`nix-build -E '%s'`, fixture.Derivation(fmt.Sprint("big-", n), "PATH=/nix/var/nix/profiles/default/bin; head -c 200M /dev/zero > $out"))
	}
	for n := range 3 {
		fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, strings.ReplaceAll(big(n), `\"`, `"`))), 0)
	}
	if err := s.Log.Await(3*time.Minute, func(text string) bool { return strings.Contains(text, "collected garbage in a store") }); err != nil {
		t.Fatal(err)
	}
	if size := storesSizeOnDisk(t, s); size > limit {
		t.Errorf("the store takes %d bytes", size)
	}
	got := fixture.Do(t, s, fixture.Build(url, "nix-store --verify --check-contents"))
	fixture.WantExit(t, got, 0)
	if hasLine(got, fillingStore) {
		t.Errorf("the whole store was removed: %v", got.Lines)
	}
}

// TestSharedStore runs jobs that share one store, and jobs whose store is not kept.
func TestSharedStore(t *testing.T) { fixture.OnEngines(t, sharedStore) }

func sharedStore(t *testing.T, e *fixture.Engine) {
	shared := storeServer(t, e, func(s *server.Settings) { s.Store, s.JobUser = stores.Shared, orchestrator.UserRoot })
	url := repository(t, "echo > $out")
	fixture.WantExit(t, fixture.Do(t, shared, fixture.Command("sh -c 'echo > /nix/was-here'")), 0)
	fixture.WantExit(t, fixture.Do(t, shared, fixture.Build(url, "sh -c 'cat /nix/was-here'")), 0)
	fixture.WantLine(t, runStores(t, shared), "(all jobs)")

	ephemeral := storeServer(t, e, func(s *server.Settings) { s.Store = stores.Ephemeral })
	fixture.WantExit(t, fixture.Do(t, ephemeral, fixture.Build(url, "nix-build")), 0)
	if found := storeVolumes(t, ephemeral); len(found) > 0 {
		t.Errorf("stores: %v", found)
	}
}

// TestStoresCommand lists stores and removes them. Nothing of them is left on the disk.
func TestStoresCommand(t *testing.T) { fixture.OnEngines(t, listAndRemoveStores) }

func listAndRemoveStores(t *testing.T, e *fixture.Engine) {
	s := storeServer(t, e, func(*server.Settings) {})
	a, b := repository(t, "echo > $out"), repository(t, "echo > $out")
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(a, "nix-build")), 0)
	if err := fixture.AwaitState(t, s, `"measured":true`); err != nil { // its job has given it back
		t.Fatal(err)
	}
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(b, "nix-build")), 0)
	list := runStores(t, s).Lines
	if len(list) != 4 || !strings.Contains(list[1], b) || !strings.Contains(list[2], a) || !strings.Contains(list[1], s.Image) ||
		!sizeInTable.MatchString(list[1]) || !strings.Contains(list[1], time.Now().Format("2006-01-02 ")) {
		t.Fatalf("got %q", list)
	}
	folders := []string{volumeFolder(t, s, storeVolumes(t, s)[0]), volumeFolder(t, s, storeVolumes(t, s)[1])}

	// A store that a job uses is not removed.
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Build(a, "sh -c 'echo begun; while [ ! -e /nix/go-on ]; do sleep 0.1; done'")))
	c.WaitFor(`"begun"`)
	ended := c.InBackground() // answers pings
	if output, code := tryStores(s, "rm", "--all"); code != 1 || !regexp.MustCompile("in use|being used").MatchString(output) {
		t.Errorf("exit code %d: %s", code, output)
	}
	if n := len(storeVolumes(t, s)); n != 1 {
		t.Errorf("%d stores are left, want only the one that a job uses", n)
	}
	if running := runStores(t, s).Lines[1]; !regexp.MustCompile(`\s[a-z0-9]{26}$`).MatchString(running) {
		t.Errorf("the job that uses the store is not listed: %q", running)
	}
	if err := os.WriteFile(filepath.Join(volumeFolder(t, s, storeVolumes(t, s)[0]), "go-on"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if last := (<-ended).Messages; !strings.Contains(last[len(last)-1], `"buildExitCode":0`) {
		t.Errorf("got %v", last)
	}

	runStores(t, s, "rm", storeVolumes(t, s)[0])
	for _, folder := range folders {
		if _, err := os.Stat(folder); err == nil {
			t.Errorf("%s is left", folder)
		}
	}
	if left := fixture.StoresState(t, s); left != "" {
		t.Errorf("left: %s", left)
	}
	for _, args := range [][]string{{"rm"}, {"rm", "--all", "name"}} {
		if output, code := tryStores(s, args...); code != 2 || !strings.Contains(output, "give the names of stores, or --all") {
			t.Errorf("%v: exit code %d: %s", args, code, output)
		}
	}
	if output, code := tryStores(s, "rm", "nothing"); code != 1 || !strings.Contains(output, "there is no store nothing") {
		t.Errorf("exit code %d: %s", code, output)
	}
}

var sizeInTable = regexp.MustCompile(`\d(\.\d+)?[MG]iB`)
