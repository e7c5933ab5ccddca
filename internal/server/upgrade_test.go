package server

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/metrics"
	"iglu.sh/builder/schemas"
)

// earlier returns settings with a copy of the state folder of an earlier version, which
// testdata/README.md describes.
func earlier(t *testing.T) *Settings {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("testdata/state-b827d66")); err != nil {
		t.Fatal(err)
	}
	return &Settings{StateDir: folder, Instance: "upgrade", KeepLogs: joblog.Keep{Jobs: 20}, MaxLogBytes: LeastLogBytes}
}

// TestUpgrade opens the state folder of an earlier version: records, logs and events are kept, and the job whose
// builder was killed counts as interrupted. A second start changes nothing.
func TestUpgrade(t *testing.T) {
	s := earlier(t)
	for range 2 {
		folder, records, err := s.openHistory()
		if err != nil {
			t.Fatal(err)
		}
		logs, err := s.openLogs(folder, records)
		if err != nil {
			t.Fatal(err)
		}
		newest, err := records.Find("", 10, func(history.Record) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range newest {
			code := "none"
			if r.ExitCode != nil {
				code = fmt.Sprint(*r.ExitCode)
			}
			got = append(got, fmt.Sprintf("%s: %s, exit code %s, %s%s", r.Job, r.End, code, r.Msg, r.Error), events(t, logs, r.Job))
		}
		want := []string{
			"lhswbknvbc46w6rs7hmjfxkqtd: interrupted, exit code none, ",
			"phase phase",
			"kibcusshobmtc2ni4zy3uyeys6: exited, exit code 1, Something went wrong while building. Builder exited with error code 1",
			"phase phase phase verdict",
			"bxpxw5sl2hztcx2hqdhyzse26c: exited, exit code 0, Build was successfull",
			"phase phase phase plan progress phase derivation line derivation progress phase verdict",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("jobs (-want +got):\n%s", diff)
		}
		if err := records.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// events returns the types of a job's events. It compares the lines in its messages with its log.
func events(t *testing.T, logs *joblog.Store, job string) string {
	t.Helper()
	reader, err := logs.Reader(job)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var types []string
	var lines bytes.Buffer
	seq := int64(0)
	err = reader.FollowMessages(t.Context(), 1, func(messages []schemas.Message) error {
		for _, m := range messages {
			if seq++; m.Seq != seq {
				t.Errorf("job %s: message %d has the number %d", job, seq, m.Seq)
			}
			if m.Line != nil {
				lines.Write(append(m.Line, '\n'))
			}
			if m.Event == nil {
				continue
			}
			event, err := schemas.ParseEvent(m.Event)
			if err != nil {
				return err
			}
			types = append(types, strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", event), "schemas."), "Event")))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("testdata/state-b827d66/upgrade/logs", job+".log"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), lines.String()); diff != "" {
		t.Errorf("job %s: the log (-file +messages):\n%s", job, diff)
	}
	return strings.Join(types, " ")
}

// TestUnusedFolders has folders of builders that shared the instance's folder. What is too old is removed from those that no
// builder uses any more.
func TestUnusedFolders(t *testing.T) {
	s := earlier(t)
	for _, name := range []string{"upgrade/2", "upgrade/3", "upgrade/5"} {
		if err := os.CopyFS(filepath.Join(s.StateDir, name), os.DirFS("testdata/state-b827d66/upgrade")); err != nil {
			t.Fatal(err)
		}
	}
	own, records, err := s.openHistory()
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	other, err := history.Open(filepath.Join(s.StateDir, "upgrade/3/history.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s.KeepLogs.Jobs = 1
	if err := s.pruneUnused(own); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"upgrade": 3, "upgrade/2": 1, "upgrade/3": 3, "upgrade/5": 1} {
		logs, err := filepath.Glob(filepath.Join(s.StateDir, name, "logs/*.log"))
		if err != nil || len(logs) != want {
			t.Errorf("%s has %d logs, want %d (%v)", name, len(logs), want, err)
		}
	}
	unused, err := history.Open(filepath.Join(s.StateDir, "upgrade/2/history.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer unused.Close()
	if left, err := unused.Find("", 10, func(history.Record) bool { return true }); len(left) != 1 {
		t.Errorf("%d records are left there, want 1 (%v)", len(left), err)
	}
}

// TestGoingBack starts a version on a folder that a newer one has written: it fails with an error that says so,
// and changes nothing.
func TestGoingBack(t *testing.T) {
	s := earlier(t)
	name := filepath.Join(s.StateDir, "upgrade/history.db")
	db, err := bbolt.Open(name, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		return meta.Put([]byte("format"), []byte("1000"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before := contents(t, s.StateDir)
	s.KeepLogs = joblog.Keep{} // would remove all logs
	err = Serve(t.Context(), t.Context(), *s, "/proc/self/exe", metrics.Build{}, slog.New(slog.DiscardHandler))
	want := "open the history " + name + ": a newer version of the builder has written it: its format is 1000, and this version knows those up to 1\n" +
		"hint: start that version or a later one, or give this one another folder (IGLU_STATE_DIR)"
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	if after := contents(t, s.StateDir); !slices.Equal(before, after) {
		t.Error("the folder has changed")
	}
}

// contents returns the names and contents of the files in a folder.
func contents(t *testing.T, folder string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		files = append(files, name+"\n"+string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
