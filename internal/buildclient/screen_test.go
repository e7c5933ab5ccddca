package buildclient

import (
	"context"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/termtest"
)

const (
	hello = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-hello-2.12.1.drv"
	gcc   = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-gcc-with-a-long-name-14.3.0.drv"
	wide  = "/nix/store/cccccccccccccccccccccccccccccccc-日本語のとても長い名前のパッケージ.drv"
)

// downloading is the progress of a job that has built two of five derivations.
var downloading = schemas.ProgressEvent{
	Derivations: schemas.Counts{Done: 2, Running: 2, Expected: 5},
	Paths:       schemas.Counts{Done: 3, Running: 1, Expected: 10},
	Bytes:       schemas.Share{Done: 12_900_000, Expected: 47_800_000},
}

func begin(derivation, phase string) schemas.DerivationEvent {
	return schemas.DerivationEvent{Derivation: derivation, State: schemas.DerivationBuilding, Phase: phase}
}

// Without a number of bytes, as with nix-build, the status has no part for them.
func TestStatusWithoutBytes(t *testing.T) {
	p := newProgress(time.Time{})
	p.counts = downloading
	p.counts.Bytes = schemas.Share{}
	for width, want := range map[int]string{80: "running 0s · 2/5 built · 3/10 paths fetched", 40: "2/5 built"} {
		if got := p.status(width, time.Time{}); got != want {
			t.Errorf("%d: %q, want %q", width, got, want)
		}
	}
}

// A status has as many of the derivations that are being built as fit.
func TestStatusNames(t *testing.T) {
	p := newProgress(time.Time{})
	for _, name := range []string{"a-1.0", "b-1.0", "c-1.0", "d-1.0"} {
		p.takeDerivation(begin("/nix/store/cccccccccccccccccccccccccccccccc-"+name+".drv", ""), time.Time{})
	}
	for width, want := range map[int]string{
		60: "running 0s · a-1.0 0s, b-1.0 0s, c-1.0 0s, d-1.0 0s",
		51: "running 0s · a-1.0 0s, b-1.0 0s, c-1.0 0s, d-1.0 0s",
		50: "running 0s · a-1.0 0s, b-1.0 0s and 2 more",
		42: "running 0s · a-1.0 0s, b-1.0 0s and 2 more",
		41: "running 0s · a-1.0 0s and 3 more",
		31: "running 0s · a-1.0 0s, b-1.0 0s",
	} {
		if got := p.status(width, time.Time{}); got != want {
			t.Errorf("%d: %q, want %q", width, got, want)
		}
	}
}

// TestScreen follows a job on terminals of different widths.
func TestScreen(t *testing.T) {
	for _, test := range []struct {
		width                    int
		begun, building, failing string // the status line
	}{
		{40, "building 3s · gcc-with-a-long-name-… 0s", "2/5 built · 12.3/45.6 MiB · gcc-… 1m05s", "2/5 built · 12.3/45.6 MiB"},
		{80, "building 3s · gcc-with-a-long-name-14.3.0 0s", "2/5 built · 12.3/45.6 MiB · gcc-with-a-long-name-14.3.0 1m05s, hello-2.12.1 0s",
			"building 1m08s · 2/5 built · 3/10 paths fetched, 12.3/45.6 MiB"},
		{200, "building 3s · gcc-with-a-long-name-14.3.0 0s",
			"building 1m08s · 2/5 built · 3/10 paths fetched, 12.3/45.6 MiB · gcc-with-a-long-name-14.3.0 (buildPhase) 1m05s, hello-2.12.1 0s",
			"building 1m08s · 2/5 built · 3/10 paths fetched, 12.3/45.6 MiB"},
	} {
		t.Run(strconv.Itoa(test.width), func(t *testing.T) {
			next := make(chan struct{})
			url := startBuilder(t, true, func(b *builderConn) {
				b.accept()
				b.event(schemas.NodeEvent{Name: "node-\x1b1"})
				b.event(schemas.PhaseEvent{Phase: schemas.Evaluate})
				b.await(next)
				b.lines("iglu: running nix build", "a line")
				b.await(next)
				b.event(schemas.PhaseEvent{Phase: schemas.Build})
				b.event(begin(gcc, ""))
				b.await(next)
				b.event(begin(gcc, "buildPhase"))
				b.event(begin(hello, ""))
				b.event(downloading)
				b.await(next)
				b.event(schemas.DerivationEvent{Derivation: gcc, State: schemas.DerivationBuilt})
				b.lines(strings.Repeat("x", test.width+5))
				b.event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationFailed, Phase: "checkPhase", Log: []string{"one", "two"}})
				b.await(next)
				b.end(schemas.Exited(1), &schemas.VerdictEvent{End: "exited", ExitCode: number(1), Seconds: 70, PeakMemory: 3 << 29, CPUSeconds: 12.34,
					Phases: []schemas.PhaseTime{{Phase: schemas.Evaluate, Seconds: 3}, {Phase: schemas.Build, Seconds: 67}}})
				b.untilGone()
			})
			term, clock := termtest.Open(t, test.width, 24), newClock()
			ended := submit(t, Options{URL: url, Stdout: term.TTY, now: clock.Now})
			term.Want("evaluating 0s")
			clock.add(3 * time.Second)
			term.Want("evaluating 3s")
			step(t, next)
			const log = "iglu: running nix build\na line\n"
			term.Want(log + "evaluating 3s")
			step(t, next)
			term.Want(log + test.begun)
			clock.add(65 * time.Second)
			step(t, next)
			term.Want(log + test.building)
			step(t, next)
			long := strings.Repeat("x", test.width) + "\nxxxxx\n"
			term.Want(log + long + test.failing)
			step(t, next)
			if got := <-ended; got.code != 1 || got.err != nil {
				t.Errorf("exit code %d, %v", got.code, got.err)
			}
			term.Want(log + long + ansi.Hardwrap(`
hello-2.12.1 failed in checkPhase; its last lines:
  one
  two

Failed with exit code 1 after 1m10s
  phases  evaluate 3.0s, build 1m07s
  memory  1.5 GiB at most
  CPU     12.3s
  node    node-^[1
`, test.width, true))
		})
	}
}

// TestScreenResized makes a terminal narrow and wide again while a status line is there.
func TestScreenResized(t *testing.T) {
	next := make(chan struct{})
	url := startBuilder(t, true, func(b *builderConn) {
		b.accept()
		b.event(schemas.PhaseEvent{Phase: schemas.Build})
		b.event(begin(wide, "installPhase"))
		b.event(downloading)
		b.lines("日本語", "two")
		b.await(next)
		b.end(schemas.Exited(0), nil)
		b.untilGone()
	})
	term, clock := termtest.Open(t, 200, 10), newClock()
	ended := submit(t, Options{URL: url, Stdout: term.TTY, now: clock.Now})
	const whole = "building 0s · 2/5 built · 3/10 paths fetched, 12.3/45.6 MiB · 日本語のとても長い名前のパッケージ (installPhase) 0s"
	term.Want("日本語\ntwo\n" + whole)
	term.Resize(40, 10)
	term.Want("日本語\ntwo\n2/5 built · 12.3/45.6 MiB · 日本語… 0s")
	term.Resize(200, 10)
	term.Want("日本語\ntwo\n" + whole)
	step(t, next)
	<-ended
	term.Want("日本語\ntwo\n\nBuilt in 0.0s")
}

// TestScreenLeavesNoRemains ends jobs in the middle.
func TestScreenLeavesNoRemains(t *testing.T) {
	begun := func(b *builderConn) {
		b.accept()
		b.event(schemas.PhaseEvent{Phase: schemas.Build})
		b.event(begin(hello, ""))
		b.lines("one")
	}
	const shown = "one\nbuilding 0s · hello-2.12.1 0s"
	t.Run("the builder goes away", func(t *testing.T) {
		gone := make(chan struct{})
		url := startBuilder(t, true, func(b *builderConn) {
			begun(b)
			b.await(gone)
		})
		term := termtest.Open(t, 40, 5)
		ended := submit(t, Options{URL: url, Stdout: term.TTY, now: newClock().Now})
		term.Want(shown)
		close(gone)
		if got := <-ended; got.code != ExitClient || got.err == nil || !strings.Contains(got.err.Error(), "ended the connection without a result") {
			t.Errorf("exit code %d, %v", got.code, got.err)
		}
		term.Want("one")
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		url := startBuilder(t, true, func(b *builderConn) {
			begun(b)
			b.untilGone()
		})
		term := termtest.Open(t, 40, 5)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			Submit(ctx, Options{URL: url, Job: []byte("{}"), Stdout: term.TTY, Stderr: io.Discard, now: newClock().Now})
		}()
		term.Want(shown)
		io.WriteString(term.TTY, "^C") // what the terminal shows of the key
		cancel()
		<-ended
		term.Want("one")
	})
}

// TestScreenWithoutEvents is a job on a builder that sends none.
func TestScreenWithoutEvents(t *testing.T) {
	next := make(chan struct{})
	url := startBuilder(t, false, func(b *builderConn) {
		b.accept()
		b.event(schemas.PhaseEvent{Phase: schemas.Build}) // sends nothing
		b.lines("one", `"two" \`)
		b.await(next)
		b.end(schemas.Exited(42), nil)
		b.untilGone()
	})
	term, clock := termtest.Open(t, 40, 10), newClock()
	ended := submit(t, Options{URL: url, Stdout: term.TTY, now: clock.Now})
	term.Want("one\n\"two\" \\\nrunning 0s")
	clock.add(75 * time.Second)
	term.Want("one\n\"two\" \\\nrunning 1m15s")
	step(t, next)
	if got := <-ended; got.code != 42 || got.err != nil {
		t.Errorf("exit code %d, %v", got.code, got.err)
	}
	term.Want("one\n\"two\" \\\n\nFailed with exit code 42 after 1m15s")
}

// TestManyLines scrolls a log that is longer than the screen.
func TestManyLines(t *testing.T) {
	url := startBuilder(t, true, func(b *builderConn) {
		b.accept()
		b.event(schemas.PhaseEvent{Phase: schemas.Build})
		for range 20_000 {
			b.lines("a line of many that are the same")
		}
		b.lines("the last")
		b.end(schemas.Exited(0), nil)
		b.untilGone()
	})
	term := termtest.Open(t, 40, 5)
	ended := submit(t, Options{URL: url, Stdout: term.TTY, now: newClock().Now})
	<-ended
	term.Want("a line of many that are the same\nthe last\n\nBuilt in 0.0s")
	if got := strings.Count(term.Bytes(), "a line of many"); got != 20_000 {
		t.Errorf("%d lines", got)
	}
}
