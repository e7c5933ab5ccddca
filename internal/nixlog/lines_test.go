package nixlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/schemas"
)

// An onlooker has the lines of a process, and its store.
type onlooker struct {
	*Lines
	t      *testing.T
	log    *Log
	store  nixstore.Files
	events []string // in short, without those of the plan
	lines  []string // of derivations
	last   schemas.ProgressEvent
}

func lookAt(t *testing.T, needs map[string][]string) *onlooker {
	t.Helper()
	o := &onlooker{t: t, store: storeOf(t, needs)}
	o.log = New(func(e schemas.Event) {
		switch e := e.(type) {
		case schemas.DerivationEvent:
			o.events = append(o.events, strings.TrimSpace(fmt.Sprint(e.State, " ", e.Derivation[44:], " ", strings.Join(e.Log, "|"))))
		case schemas.LineEvent:
			o.lines = append(o.lines, e.Derivation[44:]+" "+e.Text)
		case schemas.ProgressEvent:
			o.last = e
		}
	}, o.store, noSecrets)
	o.log.interval = time.Hour
	o.Lines = o.log.Lines()
	return o
}

func (o *onlooker) print(lines ...string) {
	for _, line := range lines {
		o.Write([]byte(line[:len(line)/2]))
		o.Write([]byte(line[len(line)/2:] + "\n"))
	}
}

// put makes a path in the store.
func (o *onlooker) put(path string) {
	o.t.Helper()
	if err := os.WriteFile(o.store.Root+path, nil, 0o644); err != nil {
		o.t.Fatal(err)
	}
}

func (o *onlooker) want(last schemas.ProgressEvent, events ...string) {
	o.t.Helper()
	o.log.Close()
	if diff := cmp.Diff(events, o.events); diff != "" {
		o.t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(last, o.last); diff != "" {
		o.t.Errorf("progress (-want +got):\n%s", diff)
	}
}

var diamond = map[string][]string{"a": nil, "b": {"a"}, "c": {"a"}, "d": {"b", "c"}}

// lists is what nix-build prints before it builds.
var lists = []string{"these 4 derivations will be built:", "  " + drv("a"), "  " + drv("b"), "  " + drv("c"), "  " + drv("d"),
	"these 2 paths will be fetched (0.01 MiB download, 0.02 MiB unpacked):", "  " + out("x"), "  " + out("y")}

func TestLines(t *testing.T) {
	o := lookAt(t, diamond)
	o.print(lists...)
	o.print("copying path '"+out("x")+"' from 'http://cache'...", "copying path '"+out("y")+"' from 'http://cache'...")
	o.put(out("x"))
	o.print("building '" + drv("a") + "'...")
	o.put(out("a") + ".lock")
	o.put(out("a"))
	o.print("building '" + drv("a") + "'... says a")
	if err := os.Remove(o.store.Root + out("a") + ".lock"); err != nil {
		t.Fatal(err)
	}
	o.print("building '"+drv("b")+"'...", "building '"+drv("c")+"' on 'ssh://other'...", "text of b")
	o.put(out("b"))
	o.looked = time.Time{} // a second later
	o.print("more of c")
	o.print("building '" + drv("d") + "'...")
	o.End(true)
	o.want(schemas.ProgressEvent{Derivations: schemas.Counts{Done: 4, Expected: 4}, Paths: schemas.Counts{Done: 2, Expected: 2}},
		"building a.drv", "built a.drv", "building b.drv", "building c.drv", "built b.drv", "building d.drv", "built c.drv", "built d.drv")
}

// A list ends before a line that does not belong to it. What is expected is counted when it ends.
func TestLinesOfLists(t *testing.T) {
	const builds, fetches = "these 2 derivations will be built:", "these 2 paths will be fetched (0.01 MiB download, 0.02 MiB unpacked):"
	for name, test := range map[string]struct {
		lines          []string
		builds, copies int64
	}{
		"both":                            {append(lists[:len(lists):len(lists)], "text"), 4, 2},
		"only derivations are built":      {[]string{builds, "  " + drv("a"), "  " + out("x"), "  " + drv("b")}, 1, 0},
		"other files can be fetched":      {[]string{fetches, "  " + out("x"), "  " + drv("a"), "text"}, 0, 2},
		"not indented":                    {[]string{fetches, "  " + out("x"), out("y"), "  " + out("z")}, 0, 1},
		"no heading":                      {[]string{"  " + out("x"), "  " + drv("a"), "text"}, 0, 0},
		"a list that has not ended":       {[]string{builds, "  " + drv("a")}, 0, 0},
		"two lists, one behind the other": {[]string{fetches, "  " + out("x"), fetches, "  " + out("y"), "text"}, 0, 2},
	} {
		o := lookAt(t, diamond)
		o.print(test.lines...)
		if got := [2]int64{o.builds.counts.Expected, o.copies.counts.Expected}; got != [2]int64{test.builds, test.copies} {
			t.Errorf("%s: %v are expected, want %d and %d", name, got, test.builds, test.copies)
		}
		o.End(true)
		o.log.Close()
	}
}

// An error has few lines. A builder can print more that look like them.
func TestLinesOfLongFailure(t *testing.T) {
	o := lookAt(t, diamond)
	o.print("error: it fails")
	for range 2 * maxFailure / maxLine {
		o.print("  got: " + strings.Repeat("x", maxLine))
	}
	if n := len(o.failure); n > maxFailure+maxLine {
		t.Errorf("%d bytes are kept", n)
	}
	o.End(false)
	o.log.Close()
}

// One derivation fails, another is built, and a third is ended because of the failure.
func TestLinesOfFailure(t *testing.T) {
	for _, line := range []string{
		"error: Cannot build '" + drv("b") + "'.", // Nix 2.31 and later
		"error: Cannot build '" + drv("b") + "'.\n       Reason: builder failed with exit code 3.\n       Output paths:",
		"error: builder for '" + drv("b") + "' failed with exit code 3",
		"error: hash mismatch in fixed-output derivation '" + drv("b") + "':\n         specified: sha256-A=\n            got:    sha256-B=",
	} {
		o := lookAt(t, diamond)
		packed, err := os.ReadFile("../nixstore/testdata/log.bz2")
		path := filepath.Join(o.store.Root, "nix/var/log/nix/drvs", filepath.Base(drv("b"))[:2], filepath.Base(drv("b"))[2:]+".bz2")
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, packed, 0o644)); err != nil {
			t.Fatal(err)
		}
		o.print(lists[:5]...)
		o.print("building '" + drv("a") + "'...")
		o.put(out("a"))
		o.print("building '"+drv("b")+"'...", "building '"+drv("c")+"'...", line, "error: Cannot build '"+drv("d")+"'.")
		o.End(false)
		if len(o.events) == 6 && strings.HasPrefix(o.events[4], "failed b.drv line 12|line 13|") && strings.HasSuffix(o.events[4], "|end") {
			o.events[4] = "failed b.drv, with its log"
		}
		o.want(schemas.ProgressEvent{Derivations: schemas.Counts{Done: 1, Failed: 2, Expected: 3}},
			"building a.drv", "built a.drv", "building b.drv", "building c.drv", "failed b.drv, with its log", "failed c.drv")
		// The whole log is reported, although people may see less of it.
		if n := len(o.lines); n < 25 || o.lines[0] != "b.drv line 0" || o.lines[n-1] != "b.drv end" {
			t.Errorf("the log of b has %d lines: %q", n, o.lines)
		}
		want := Failure{drv("b"), "end"}
		if strings.Contains(line, "hash") {
			want.Text = "hash mismatch in fixed output, specified: sha256-A= got: sha256-B="
		}
		if got := o.log.Failure(); got != want {
			t.Errorf("the failure is %q, want %q", got, want)
		}
	}
}

// What a builder prints counts as a line of Nix only if it looks like one and the path is in the store.
func TestLinesOfOthers(t *testing.T) {
	o := lookAt(t, diamond)
	o.print(" building '"+drv("a")+"'...", "> building '"+drv("a")+"'...", "building '"+drv("none")+"'...", "building '/nix/store/../etc/passwd.drv'...",
		"building '"+drv("a"), "building '"+out("a")+"'...", "copying path '/etc/passwd' from 'x'...", "error: builder for '"+drv("a")+"' failed",
		strings.Repeat("x", maxLine)+"building '"+drv("a")+"'...", "\x1b[1mbuilding '"+drv("a")+"'...", "building '"+strings.Repeat("x", 2*maxLine)+"'")
	o.End(true)
	o.want(schemas.ProgressEvent{})
}

// The store is searched once a second, and whenever something begins while at most 32 things are in
// progress.
func TestLinesLook(t *testing.T) {
	for _, test := range []struct {
		going int
		soon  bool
	}{{32, true}, {33, false}} {
		o := lookAt(t, diamond)
		synctest.Test(t, func(t *testing.T) {
			defer o.log.Close() // its timer belongs to this bubble
			check := func(when string, want schemas.Counts) {
				t.Helper()
				if o.copies.counts != want {
					t.Errorf("%d downloads, %s: %+v, want %+v", test.going, when, o.copies.counts, want)
				}
			}
			for n := range test.going {
				o.print("copying path '" + out(fmt.Sprint(n)) + "' from 'http://cache'...")
			}
			o.print("copying path '" + out("0") + "' from 'http://another'...") // it is known
			o.put(out("0"))
			all := int64(test.going)
			check("at the beginning", schemas.Counts{Running: all})
			o.print("building '" + drv("a") + "'...")
			want := schemas.Counts{Running: all}
			if test.soon {
				want = schemas.Counts{Running: all - 1, Done: 1}
			}
			check("when a build begins", want)
			o.put(out("1"))
			time.Sleep(time.Second - time.Nanosecond)
			o.print("text")
			check("within a second", want)
			time.Sleep(time.Nanosecond)
			o.print("text")
			check("after a second", schemas.Counts{Running: all - 2, Done: 2})
			o.End(false)
		})
	}
}

// Only the beginning of a line is kept, in whatever pieces it arrives.
func TestLongLineIsCut(t *testing.T) {
	o := lookAt(t, diamond)
	o.Write([]byte(strings.Repeat("x", 1000)))
	o.Write([]byte(strings.Repeat("x", 1000)))
	o.Write([]byte("x"))
	if len(o.line) != 1024 {
		t.Errorf("%d bytes are kept", len(o.line))
	}
	o.End(true)
	o.log.Close()
}

// At most 4096 activities are tracked. More do not change the others.
func TestLinesBounds(t *testing.T) {
	o := lookAt(t, diamond)
	for n := range maxActivities {
		o.print("copying path '" + out(fmt.Sprint(n)) + "' from 'http://cache'...")
	}
	if want := (schemas.Counts{Running: 4094}); o.copies.counts != want { // two count the others
		t.Errorf("%+v, want %+v", o.copies.counts, want)
	}
	o.End(false)
	o.want(schemas.ProgressEvent{Paths: schemas.Counts{Failed: 4094, Expected: 4094}})
}

// FuzzLines prints anything, in two pieces.
func FuzzLines(f *testing.F) {
	f.Add([]byte(strings.Join(lists, "\n")+"\nbuilding '"+drv("a")+"'...\nerror: Cannot build '"+drv("a")+"'.\n"), 20, true)
	f.Add([]byte("copying path '"+out("x")+"' from 'x'\nbuilding '"+drv("d")+"'"), 3, false)
	store := storeOf(f, diamond)
	f.Fuzz(func(t *testing.T, text []byte, cut int, succeeded bool) {
		open := map[string]int{}
		l := New(func(e schemas.Event) {
			if !json.Valid(schemas.AppendEvent(nil, e)) {
				t.Errorf("not JSON: %s", schemas.AppendEvent(nil, e))
			}
			if d, ok := e.(schemas.DerivationEvent); ok && d.State == schemas.DerivationBuilding {
				open[d.Derivation]++
			} else if ok {
				open[d.Derivation]--
			}
		}, store, noSecrets)
		l.interval = time.Hour
		lines := l.Lines()
		cut = max(0, min(cut, len(text)))
		lines.Write(text[:cut])
		lines.Write(text[cut:])
		lines.End(succeeded)
		l.Close()
		for derivation, n := range open {
			if n != 0 {
				t.Errorf("%s has begun %d times more often than ended", derivation, n)
			}
		}
		if l.activities != 0 || len(l.running) != 0 {
			t.Errorf("%d activities are left", l.activities)
		}
	})
}

// BenchmarkLines measures the cost of reading for a build that prints much.
func BenchmarkLines(b *testing.B) {
	l := New(func(schemas.Event) {}, storeOf(b, nil), noSecrets)
	lines := l.Lines()
	chunk := []byte(strings.Repeat("gcc -DHAVE_CONFIG_H -I. -I./src -g -O2 -c -o src/a.o src/a.c\n", 500))
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		lines.Write(chunk)
	}
	lines.End(true)
	l.Close()
}
