package jobrun

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMarkOfAStore runs jobs and maintenance in a store and reboots its machine, and checks whether the store
// counts as clean.
func TestMarkOfAStore(t *testing.T) {
	const boot, other = "this-life", "another-life"
	jobEnds := func(s store) error { return s.writeMark(storeMark{}) }
	jobBegins := func(s store) error {
		mark, _ := s.readMark()
		return s.removeMark(mark)
	}
	sync := func(s store) error { return s.sync(storeMark{}) }
	for name, test := range map[string]struct {
		steps  []func(store) error
		reader string // the life of the machine in which it is read
		clean  bool
	}{
		"fresh":                        {nil, boot, false},
		"after a job":                  {[]func(store) error{jobEnds}, boot, true},
		"after a job, power lost":      {[]func(store) error{jobEnds}, other, false},
		"synced":                       {[]func(store) error{jobEnds, sync}, boot, true},
		"synced, power lost":           {[]func(store) error{jobEnds, sync}, other, true},
		"in a job":                     {[]func(store) error{jobEnds, jobBegins}, boot, false},
		"in a job, after a sync":       {[]func(store) error{jobEnds, sync, jobBegins}, other, false},
		"of a machine without an id":   {[]func(store) error{jobEnds}, "", false},
		"a pipe in the mark's place":   {[]func(store) error{func(s store) error { return unix.Mkfifo(filepath.Join(s.root, cleanMark), 0o600) }}, boot, false},
		"a link in the mark's place":   {[]func(store) error{linkedMark}, boot, false},
		"nonsense in the mark's place": {[]func(store) error{func(s store) error { return os.WriteFile(filepath.Join(s.root, cleanMark), []byte("{"), 0o600) }}, boot, false},
		"a folder in the mark's place, then a job": {[]func(store) error{
			func(s store) error { return os.MkdirAll(filepath.Join(s.root, cleanMark, "x"), 0o700) }, jobBegins, jobEnds,
		}, boot, true},
	} {
		s := store{t.TempDir(), boot}
		for _, step := range test.steps {
			if err := step(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if _, clean := (store{s.root, test.reader}).readMark(); clean != test.clean {
			t.Errorf("%s: clean %t, want %t", name, clean, test.clean)
		}
	}
}

// linkedMark replaces a store's mark by a link to that of another store.
func linkedMark(s store) error {
	other := filepath.Join(s.root, "other")
	return errors.Join(os.Mkdir(other, 0o700), store{other, s.boot}.writeMark(storeMark{}),
		os.Symlink(filepath.Join(other, cleanMark), filepath.Join(s.root, cleanMark)))
}

// TestLostDatabase removes Nix's database from a store that had one.
func TestLostDatabase(t *testing.T) {
	s := store{t.TempDir(), "this-life"}
	file := filepath.Join(s.root, database)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644), s.writeMark(storeMark{})); err != nil {
		t.Fatal(err)
	}
	mark, _ := s.readMark()
	tools := t.TempDir()
	t.Setenv("PATH", tools)
	wants := func(why string) {
		t.Helper()
		err := s.check(mark)
		if unusable, ok := errors.AsType[errUnusable](err); why == "" && err != nil || why != "" && (!ok || unusable.why != why) {
			t.Errorf("error %v, want %q", err, why)
		}
	}
	wants("it has no git any more")
	write(t, filepath.Join(tools, "git"), "")
	write(t, filepath.Join(tools, "nix"), "")
	wants("it has no git any more") // that could be run
	for _, tool := range []string{"git", "nix"} {
		if err := os.Chmod(filepath.Join(tools, tool), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	wants("")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wants("it has no database of Nix any more")
	if err := s.writeMark(mark); err != nil { // by the job that has lost it
		t.Fatal(err)
	}
	mark, _ = s.readMark()
	wants("it has no database of Nix any more")
}

// TestHugeDatabase has databases that are larger than the paths of their stores explain. The files have no blocks.
func TestHugeDatabase(t *testing.T) {
	tools := t.TempDir()
	t.Setenv("PATH", tools)
	write(t, filepath.Join(tools, "git"), "")
	write(t, filepath.Join(tools, "nix"), "")
	if err := errors.Join(os.Chmod(filepath.Join(tools, "git"), 0o755), os.Chmod(filepath.Join(tools, "nix"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		bytes, log int64 // of the database, and of its write-ahead log
		paths      int
		ok         bool
	}{
		{databaseBase, 0, 0, true}, {databaseBase + 1, 0, 0, false}, {databaseBase, 1, 0, false},
		{databaseBase, 3 * databasePath, 3, true}, {databaseBase + 3*databasePath + 1, 0, 3, false}, {0, databaseBase + 1, 0, false},
	} {
		s := store{t.TempDir(), "this-life"}
		file := filepath.Join(s.root, database)
		err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644), os.Truncate(file, test.bytes),
			os.WriteFile(file+"-wal", nil, 0o644), os.Truncate(file+"-wal", test.log))
		for i := range test.paths {
			err = errors.Join(err, os.MkdirAll(filepath.Join(s.root, "store", strconv.Itoa(i)), 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
		err = s.check(storeMark{Database: true})
		if _, unusable := errors.AsType[errUnusable](err); unusable == test.ok || test.ok && err != nil {
			t.Errorf("%+v: error %v", test, err)
		}
	}
}
