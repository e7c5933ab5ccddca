//go:build integration

package stores

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestUpgrade starts a builder with the state folder and the store of an earlier version, whose jobs wrote as root. The
// jobs and the logs are kept. The store is removed, and a line of the log says so.
func TestUpgrade(t *testing.T) {
	const (
		earlier = "../../../internal/server/testdata/state-b827d66/upgrade"
		job     = "bxpxw5sl2hztcx2hqdhyzse26c"
		id      = "store-e774a5d17e043edb2b2b"
	)
	state := t.TempDir()
	var store string
	s := storeServer(t, fixture.DockerEngine(), func(s *server.Settings) {
		s.StateDir = state
		if err := os.CopyFS(filepath.Join(state, s.Instance), os.DirFS(earlier)); err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(state, s.Instance, "stores")
		if err := os.Rename(filepath.Join(folder, "iglu-builder-upgrade-"+id+".json"), filepath.Join(folder, "iglu-builder-"+s.Instance+"-"+id+".json")); err != nil {
			t.Fatal(err)
		}
		store = "iglu-builder-" + s.Instance + "-" + id
		args := []string{"volume", "create"} // as that version did
		for name, value := range map[string]string{
			"instance": s.Instance, "store": "git://git.example.com/hello.git", "image": "iglu-builder/job-debian:1785b6589c10", "image-id": "sha256:1c66",
		} {
			args = append(args, "--label", "sh.iglu.builder."+name+"="+value)
		}
		fixture.Docker(t, append(args, store)...)
	})
	if _, log := s.Get(t, "GET", "/api/v1/jobs/"+job+"/log"); !strings.Contains(log, "building '/nix/store/wmdpcadqriybxdbpib8fy35fkbhjlxga-hello.drv'") {
		t.Errorf("the log of an old job is %q", log)
	}
	const line = `msg="removed a store of an earlier version: it does not say whether its jobs were root" store=`
	if err := s.Log.Await(time.Minute, func(text string) bool { return strings.Contains(text, line+store) }); err != nil {
		t.Fatal(err)
	}

	// A store of this version is kept.
	url := repository(t, "echo > $out")
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, "nix-build")), 0)
	stays := storeVolumes(t, s)
	if len(stays) != 1 || stays[0] == store {
		t.Fatalf("the stores are %q", stays)
	}
	instance := s.Instance
	s.End(t)
	again := storeServer(t, fixture.DockerEngine(), func(s *server.Settings) { s.Instance, s.StateDir = instance, state })
	if r := fixture.Do(t, again, fixture.Build(url, "nix-build")); hasLine(r, fillingStore) {
		t.Errorf("after a restart, the job has a new store: %v", r.Lines)
	}
}
