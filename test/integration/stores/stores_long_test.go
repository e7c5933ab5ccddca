//go:build integration && long

package stores

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// size returns what a server's stores take of the disk, in bytes.
func storesSizeOnDisk(t *testing.T, s *fixture.Server) (bytes int64) {
	t.Helper()
	for _, volume := range storeVolumes(t, s) {
		output, err := exec.Command("du", "-s", "--block-size=1", volumeFolder(t, s, volume)).Output()
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

// TestStoresWithinLimit has ten repositories of 300 MB each build where there is room for
// 1 GB: the last two stay warm.
func TestStoresWithinLimit(t *testing.T) { fixture.OnEngines(t, storesWithinLimit) }

func storesWithinLimit(t *testing.T, e *fixture.Engine) {
	const limit = 1_000_000_000
	repositories := 10
	if e.IsPodman() {
		repositories = 4 // enough for the first to go
	}
	s := storeServer(t, e, func(s *server.Settings) { s.StoreMaxBytes = limit })
	var urls []string
	for range repositories {
		url := repository(t, "echo built anew; PATH=/nix/var/nix/profiles/default/bin; head -c 240M /dev/zero > $out")
		urls = append(urls, url)
		fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, "nix-build")), 0)
		if size := storesSizeOnDisk(t, s); size > limit {
			t.Fatalf("after %d of %d repositories, their stores take %d bytes", len(urls), repositories, size)
		}
	}
	for _, url := range urls[repositories-2:] {
		if got := fixture.Do(t, s, fixture.Build(url, "nix-build")); hasLine(got, "built anew") || hasLine(got, fillingStore) {
			t.Errorf("one of the two most recent is cold: %v", got.Lines)
		}
	}
	fixture.WantLine(t, fixture.Do(t, s, fixture.Build(urls[0], "nix-build")), fillingStore)
}

// TestStoreOfSomebodyElse has somebody use a store that is to make room: jobs run all the same,
// and it goes when it can.
func TestStoreOfSomebodyElse(t *testing.T) { fixture.OnEngines(t, storeOfSomebodyElse) }

func storeOfSomebodyElse(t *testing.T, e *fixture.Engine) {
	s := storeServer(t, e, func(s *server.Settings) { s.StoreMaxBytes = 1 })
	a, b := repository(t, "echo > $out"), repository(t, "echo > $out")
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(a, "nix-build")), 0)
	used := storeVolumes(t, s)[0]
	holder := strings.TrimSpace(e.Docker(t, "create", "--network", "none", "--volume", used+":/held", fixture.Env.Image, "true"))
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(b, "nix-build")), 0)
	if !slices.Contains(storeVolumes(t, s), used) {
		t.Error("the engine removes what is in use")
	}
	e.Docker(t, "rm", holder)
	if err := fixture.Poll(3*time.Minute, func() bool { return !slices.Contains(storeVolumes(t, s), used) }); err != nil {
		t.Errorf("the store stays: %v", storeVolumes(t, s))
	}
}

// TestStoreAlone has one store grow beyond the limit: its garbage goes while no job is there.
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
	if err := fixture.Poll(3*time.Minute, func() bool { return storesSizeOnDisk(t, s) <= limit }); err != nil {
		t.Errorf("the store takes %d bytes", storesSizeOnDisk(t, s))
	}
	got := fixture.Do(t, s, fixture.Build(url, "nix-store --verify --check-contents"))
	fixture.WantExit(t, got, 0)
	if hasLine(got, fillingStore) {
		t.Errorf("the store went as a whole: %v", got.Lines)
	}
}
