package joblog

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

const (
	hello = "/nix/store/93s9qh4dv29fnalqrgc9pg8ks6w68cnd-hello-2.12.drv"
	world = "/nix/store/yf03hz333bd5qsyplkfvpvp491z4r3py-world.drv"
)

// derivationsLog returns a log that is being written, and a reader of it.
func derivationsLog(t *testing.T, maxBytes int64) (*Log, *Reader, *Store) {
	t.Helper()
	s, err := Open(t.TempDir(), Keep{Jobs: 1}, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	log, err := s.Create("job", redact.New("hunter2hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Reader("job")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		log.Close()
	})
	return log, r, s
}

func logOf(t *testing.T, r *Reader, d *Derivation) string {
	t.Helper()
	var out strings.Builder
	if err := r.FollowDerivation(t.Context(), d, false, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// The lines of derivations that are built at the same time are found again, while the job runs and after its end.
func TestDerivations(t *testing.T) { synctest.Test(t, testDerivations) }

func testDerivations(t *testing.T) {
	log, r, s := derivationsLog(t, 1<<30)
	if all, err := r.Derivations(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("of an empty log: %v, %v", all, err)
	}
	log.Respond(schemas.Accepted(), nil)
	log.Event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationBuilding})
	log.Event(schemas.DerivationEvent{Derivation: world, State: schemas.DerivationBuilding})
	var wantHello, wantWorld strings.Builder
	out := log.Stream(schemas.Stderr)
	for i := range 2000 {
		log.Event(schemas.LineEvent{Derivation: hello, Text: fmt.Sprintf(`%d "hello" hunter2hunter2`, i)})
		fmt.Fprintf(&wantHello, "%d \"hello\" ***\n", i)
		if i%3 == 0 {
			log.Event(schemas.LineEvent{Derivation: world, Text: fmt.Sprint(i)})
			fmt.Fprintln(&wantWorld, i)
			fmt.Fprintln(out, "a line of the job's")
		}
	}
	log.Event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationBuilding, Phase: "buildPhase"})
	log.Event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationFailed, Phase: "buildPhase"})
	check := func(t *testing.T, r *Reader) {
		t.Helper()
		all, err := r.Derivations(t.Context())
		want := []*Derivation{
			{Path: hello, Hash: "93s9qh4dv29fnalqrgc9pg8ks6w68cnd", Name: "hello-2.12", State: schemas.DerivationFailed, Phase: "buildPhase", Lines: 2000},
			{Path: world, Hash: "yf03hz333bd5qsyplkfvpvp491z4r3py", Name: "world", State: schemas.DerivationBuilding, Lines: 667},
		}
		if diff := cmp.Diff(want, all, cmpopts.IgnoreUnexported(Derivation{}), cmpopts.IgnoreFields(Derivation{}, "Begun", "Ended")); diff != "" || err != nil {
			t.Fatalf("%v (-want +got):\n%s", err, diff)
		}
		if all[0].Begun.IsZero() || all[0].Ended.Before(all[0].Begun) || !all[1].Ended.IsZero() {
			t.Errorf("times: %+v, %+v", all[0], all[1])
		}
		if got := logOf(t, r, all[0]); got != wantHello.String() {
			t.Errorf("the log of hello has %d bytes, want %d", len(got), wantHello.Len())
		}
		if got := logOf(t, r, all[1]); got != wantWorld.String() {
			t.Errorf("the log of world has %d bytes, want %d", len(got), wantWorld.Len())
		}
	}
	check(t, r)
	log.Respond(schemas.Exited(1), nil)
	log.Complete()
	log.Close()
	ended, err := s.Reader("job")
	if err != nil {
		t.Fatal(err)
	}
	defer ended.Close()
	check(t, ended)
}

// FollowDerivation returns each line as soon as it is written, and returns when the derivation has ended, even if the
// job continues.
func TestFollowDerivation(t *testing.T) { synctest.Test(t, testFollowDerivation) }

func testFollowDerivation(t *testing.T) {
	log, r, _ := derivationsLog(t, 1<<30)
	log.Respond(schemas.Accepted(), nil)
	log.Event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationBuilding})
	log.Event(schemas.LineEvent{Derivation: hello, Text: "one"})
	all, err := r.Derivations(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	writes := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- r.FollowDerivation(t.Context(), all[0], true, writerFunc(func(p []byte) (int, error) {
			writes <- string(p)
			return len(p), nil
		}))
		close(writes)
	}()
	read := func(want string) {
		t.Helper()
		if got := <-writes; got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	read("one\n")
	log.Event(schemas.LineEvent{Derivation: world, Text: "of another"})
	log.Event(schemas.LineEvent{Derivation: hello, Text: "two"})
	read("two\n")
	log.Event(schemas.DerivationEvent{Derivation: world, State: schemas.DerivationBuilt})
	time.Sleep(time.Second) // until that is read
	log.Event(schemas.LineEvent{Derivation: hello, Text: "three"})
	read("three\n")
	log.Event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationBuilt})
	for rest := range writes {
		t.Errorf("more is written: %q", rest)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The log of a derivation that was built twice has the lines of both builds, whether it is followed or not.
func TestDerivationAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, r, _ := derivationsLog(t, 1<<30)
		build := func(text string) {
			log.Event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationBuilding})
			log.Event(schemas.LineEvent{Derivation: hello, Text: text})
			log.Event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationFailed})
		}
		build("one")
		log.Event(schemas.LineEvent{Derivation: world, Text: strings.Repeat("x", 3*flushSize)}) // it is read in several parts
		build("two")
		all, err := r.Derivations(t.Context())
		if err != nil || len(all) != 2 {
			t.Fatal(all, err)
		}
		for _, follow := range []bool{false, true} {
			var out strings.Builder
			if err := r.FollowDerivation(t.Context(), all[0], follow, &out); err != nil || out.String() != "one\ntwo\n" {
				t.Errorf("followed: %t: %q, %v", follow, out.String(), err)
			}
		}
	})
}

// A derivation of which the journal has only lines is listed as one that is being built.
func TestDerivationOfLines(t *testing.T) {
	log, r, _ := derivationsLog(t, 1<<30)
	log.Event(schemas.LineEvent{Derivation: world, Text: "one"})
	log.Event(schemas.LineEvent{Derivation: world, Text: "two"})
	all, err := r.Derivations(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "world" || all[0].State != schemas.DerivationBuilding || all[0].Lines != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	if got := logOf(t, r, all[0]); got != "one\ntwo\n" {
		t.Errorf("its log is %q", got)
	}
}

// At most 1000 derivations have a line that says that their logs are cut, so that these lines have a limit, too.
func TestCutDerivationLogs(t *testing.T) {
	const limit = 4 << 20
	log, r, _ := derivationsLog(t, limit)
	log.index.journal.others = limit - limit/minorShare // as much as lines may take
	for i := range maxCutLogs + 1 {
		log.Event(schemas.LineEvent{Derivation: fmt.Sprint(i), Text: "a line"})
	}
	all, err := r.Derivations(t.Context())
	if n := len(all); err != nil || n != maxCutLogs || all[n-1].Path != fmt.Sprint(maxCutLogs-1) {
		t.Errorf("%d derivations have lines, %v", n, err)
	}
}

// The log of a derivation that prints too much has a line that says where it is cut.
func TestDerivationLogIsCut(t *testing.T) {
	log, r, _ := derivationsLog(t, 200_000)
	log.Event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationBuilding})
	for i := range 5000 {
		log.Event(schemas.LineEvent{Derivation: hello, Text: fmt.Sprint("line ", i)})
	}
	log.Event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationFailed})
	all, err := r.Derivations(t.Context())
	if err != nil || len(all) != 1 || all[0].State != schemas.DerivationFailed {
		t.Fatal(all, err)
	}
	lines := strings.Split(strings.TrimSpace(logOf(t, r, all[0])), "\n")
	if n := len(lines); n < 1000 || n >= 5000 || lines[n-2] != fmt.Sprint("line ", n-2) || !strings.HasPrefix(lines[n-1], "iglu: the log of this derivation is cut here") {
		t.Errorf("%d lines, the last are %q", n, lines[n-2:])
	}
}

// A job can report derivations that do not exist, as many as its journal has room for. The server must not hold all of
// them in memory. Their events are kept.
func TestManyDerivations(t *testing.T) {
	const reported = 30_000
	for name, least := range map[string]int{
		"hello-2.12.1-of-usual-length":                                           20_000, // as docs/api.md says
		strings.Repeat("x", nixstore.MaxPath-len("/nix/store/")-len("-.drv")-32): 8_000,
	} {
		t.Run(name[:12], func(t *testing.T) {
			log, r, _ := derivationsLog(t, 1<<30)
			path := func(i int) string { return fmt.Sprintf("/nix/store/%032d-%s.drv", i, name) }
			for i := range reported {
				if err := log.Event(schemas.DerivationEvent{Derivation: path(i), State: schemas.DerivationBuilding, Phase: "installPhase"}); err != nil {
					t.Fatal(err)
				}
			}
			log.Event(schemas.LineEvent{Derivation: path(reported - 1), Text: "not listed"})
			log.Event(schemas.LineEvent{Derivation: path(1), Text: "listed"})
			log.Complete()
			all, err := r.Derivations(t.Context())
			if err != nil || len(all) < least || len(all) == reported || all[1].Lines != 1 {
				t.Fatalf("%d derivations are listed; %v", len(all), err)
			}
			if text, err := json.Marshal(all); err != nil || len(text) > maxDerivations {
				t.Errorf("%d derivations are listed, in %d bytes; %v", len(all), len(text), err)
			}
			if got := logOf(t, r, &Derivation{Path: path(reported - 1)}); got != "not listed\n" {
				t.Errorf("the last one's log is %q", got)
			}
		})
	}
}
