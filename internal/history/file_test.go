package history

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"iglu.sh/builder/internal/jobend"
)

// An error of the file system is returned, and is not reported as a damaged file.
func TestOpenErrors(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	device := filepath.Join(t.TempDir(), "history.db") // it can be written, but neither synced nor mapped
	if err := os.Symlink(os.DevNull, device); err != nil {
		t.Fatal(err)
	}
	for what, name := range map[string]string{"a file in place of its folder": filepath.Join(plain, "history.db"), "a folder": t.TempDir(), "a device": device} {
		h, err := Open(name)
		if err == nil {
			h.Close()
		}
		if _, ok := errors.AsType[*os.PathError](err); !ok || strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestNewer opens files of a newer version of the builder and of the database: Open refuses them, and does not change
// them.
func TestNewer(t *testing.T) {
	name := file(t)
	h := open(t, name)
	keep(t, h, Record{Job: "a", Begun: noon}) // which runs, and would be interrupted
	setFormat := func(text string) {
		t.Helper()
		if err := h.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(formatKey, []byte(text)) }); err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	setFormat("2")
	const known = "a newer version of the builder has written it: its format is 2, and this version knows those up to 1"
	refused := func(want string) {
		t.Helper()
		before, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(name)
		if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "damaged") {
			t.Errorf("%v, want %q", err, want)
		}
		if after, err := os.ReadFile(name); err != nil || !bytes.Equal(before, after) {
			t.Errorf("the file has changed (%v)", err)
		}
	}
	refused(known)

	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []int{0, os.Getpagesize()} { // the database's own number, after the page's header and a magic one
		data[page+20]++
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a newer version of the builder has written it")
}

// TestFormats opens files without a format, with the current one, and with one that is not a number.
func TestFormats(t *testing.T) {
	name := file(t)
	for _, change := range []func(tx *bbolt.Tx) error{
		func(tx *bbolt.Tx) error { return tx.DeleteBucket(metaBucket) },
		func(*bbolt.Tx) error { return nil },
	} {
		h := open(t, name)
		if err := h.db.Update(change); err != nil {
			t.Fatal(err)
		}
		h.Close()
		h = open(t, name)
		err := h.db.View(func(tx *bbolt.Tx) error {
			if got := string(tx.Bucket(metaBucket).Get(formatKey)); got != "1" {
				t.Errorf("the format is %q", got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	h := open(t, name)
	if err := h.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(formatKey, []byte("x")) }); err != nil {
		t.Fatal(err)
	}
	h.Close()
	if _, err := Open(name); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a format that is no number: %v", err)
	}
}

// TestCannotWrite stores the end of a job while the file cannot be written, as on a full disk. The record has the end
// at once, and the file has it after the next write that succeeds.
func TestCannotWrite(t *testing.T) {
	for name, write := range map[string]func(h *History) error{
		"of another record": func(h *History) error { return h.Put(Record{Job: "later", Begun: noon.Add(time.Hour)}) },
		"of a prune":        func(h *History) error { return h.Prune(func(string) bool { return true }) },
	} {
		t.Run("the next write is "+name, func(t *testing.T) {
			path := file(t)
			h := open(t, path)
			r := Record{Job: "job", Command: "nix build", Begun: noon}
			keep(t, h, r)
			reopen(t, h, path, true)
			r.End, r.Ended = jobend.Exited, noon.Add(time.Minute)
			if err := h.Put(r); !errors.Is(err, bolterrors.ErrDatabaseReadOnly) {
				t.Errorf("a write that fails returns %v", err)
			}
			check := func(when string) {
				t.Helper()
				got, err := h.Get("job")
				if diff := cmp.Diff(r, got); diff != "" || err != nil {
					t.Errorf("%s (-want +got), %v:\n%s", when, err, diff)
				}
				running, err := h.Find("", 10, func(r Record) bool { return r.Job == "job" && r.Runs() })
				if len(running) > 0 || err != nil {
					t.Errorf("%s, it runs: %v, %v", when, running, err)
				}
			}
			check("before the next write")
			reopen(t, h, path, false)
			if err := write(h); err != nil {
				t.Fatal(err)
			}
			check("after the next write")
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			h = open(t, path)
			check("after a restart")
		})
	}
}

// TestBegunWhileFull has jobs begin while the file cannot be written. They are found like others, in the order of their time.
func TestBegunWhileFull(t *testing.T) {
	path := file(t)
	h := open(t, path)
	keep(t, h, Record{Job: "a", Begun: noon, End: jobend.Exited}, Record{Job: "d", Begun: noon.Add(4), End: jobend.Exited})
	reopen(t, h, path, true)
	for i, job := range []string{"b", "c", "e", "f"} {
		r := Record{Job: job, Begun: noon.Add([]time.Duration{1, 2, 5, 6}[i])}
		if err := h.Put(r); !errors.Is(err, bolterrors.ErrDatabaseReadOnly) {
			t.Errorf("a write that fails returns %v", err)
		}
	}
	check := func(when string) {
		t.Helper()
		for before, want := range map[string]string{"": "f e d c b a", "f": "e d c b a", "e": "d c b a", "d": "c b a", "c": "b a", "b": "a", "a": ""} {
			records, err := h.Find(before, 10, func(Record) bool { return true })
			var got []string
			for _, r := range records {
				got = append(got, r.Job)
			}
			if err != nil || strings.Join(got, " ") != want {
				t.Errorf("%s, before %q: %q, want %q, %v", when, before, got, want, err)
			}
		}
		if got := ids(t, h, 3); got != "f e d" {
			t.Errorf("%s, the newest three are %s", when, got)
		}
		if running, err := h.Find("", 10, Record.Runs); len(running) != 4 || err != nil {
			t.Errorf("%s, %d run: %v", when, len(running), err)
		}
	}
	check("while it is full")
	reopen(t, h, path, false)
	keep(t, h, Record{Job: "c", Begun: noon.Add(2)})
	check("when it can be written")
}

// reopen opens the file of a history anew.
func reopen(t *testing.T, h *History, path string, readOnly bool) {
	t.Helper()
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.db, err = bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: readOnly}); err != nil {
		t.Fatal(err)
	}
}

// Each call of a closed history that needs the file returns an error that says so.
func TestClosed(t *testing.T) {
	h := open(t, file(t))
	keep(t, h, Record{Job: "a", Begun: noon, End: jobend.Exited})
	h.Close()
	_, get := h.Get("a")
	for call, err := range map[string]error{
		"Put": h.Put(Record{Job: "b"}), "Get": get, "Prune": h.Prune(func(string) bool { return false }),
	} {
		if !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// TestDamaged opens files that are not a database or incomplete: the error says what to do.
func TestDamaged(t *testing.T) {
	whole := file(t)
	h, err := Open(whole)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 2000)
	for i := range 30 { // many pages
		keep(t, h, Record{Job: fmt.Sprint(i), Begun: noon.Add(time.Duration(i)), Repository: long, Branch: long, Command: long, Error: long})
	}
	h.Close()
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	overwritten := append([]byte(nil), data...)
	for i := 4 * os.Getpagesize(); i < len(overwritten); i++ {
		overwritten[i] = 0xff
	}
	for what, text := range map[string][]byte{
		"text":        []byte(strings.Repeat("no database\n", 10_000)),
		"short":       []byte("no"),
		"cut":         data[:len(data)/2],
		"overwritten": overwritten,
	} {
		name := filepath.Join(t.TempDir(), "history.db")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := Open(name)
		if err == nil {
			h.Close()
			t.Errorf("%s: no error", what)
		} else if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "\nhint: move the file away") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Open waits for a history that another process has open, but not without a limit.
func TestOpenTwice(t *testing.T) {
	name := file(t)
	first := open(t, name)
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		if _, err := Open(name); err == nil || !errors.Is(err, ErrInUse) {
			t.Errorf("a second time: %v", err)
		}
		if waited := time.Since(begun); waited < time.Second/2 || waited > 2*time.Second {
			t.Errorf("waited %v, want 1 s", waited)
		}
		time.AfterFunc(time.Second/2, func() { first.Close() })
		second, err := Open(name)
		if err != nil {
			t.Fatalf("when the first has let go: %v", err)
		}
		second.Close()
	})
}
