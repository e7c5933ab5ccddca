package nixlog

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/schemas"
)

// events returns a Log that reports progress only in Close, and its events.
func events(t *testing.T) (*Log, *[]schemas.Event) {
	t.Helper()
	var reported []schemas.Event
	l := New(func(e schemas.Event) { reported = append(reported, e) }, nixstore.Files{Root: t.TempDir()}, noSecrets)
	l.interval = time.Hour
	t.Cleanup(l.Close)
	return l, &reported
}

func starts(id, kind int) string {
	return fmt.Sprintf(`{"action":"start","id":%d,"type":%d,"fields":["/nix/store/%032d-%d.drv"]}`, id, kind, id, id)
}

func stops(id int) string { return fmt.Sprintf(`{"action":"stop","id":%d}`, id) }

func result(id, kind int, fields string) string {
	return fmt.Sprintf(`{"action":"result","id":%d,"type":%d,"fields":[%s]}`, id, kind, fields)
}

func (p *process) processLines(records ...string) {
	for _, record := range records {
		p.processLine([]byte(record))
	}
}

// The progress of two running processes is added to that of processes that have ended.
func TestProgress(t *testing.T) {
	l, _ := events(t)
	ended, first, second := l.newProcess(), l.newProcess(), l.newProcess()
	// Done, expected, running, failed.
	ended.processLines(starts(1, builds), result(1, progress, "1,9,3,2"), starts(2, copyPaths), result(2, progress, "4,9,3,1"),
		starts(3, copyPath), result(3, progress, "10,100"), stops(3), starts(4, copyPath), result(4, progress, "20,100"), stops(4),
		stops(1), stops(2))
	want := schemas.ProgressEvent{
		Derivations: schemas.Counts{Done: 1, Failed: 2, Expected: 3},
		Paths:       schemas.Counts{Done: 4, Failed: 1, Expected: 5},
		Bytes:       schemas.Share{Done: 30, Expected: 30},
	}
	check := func(what string) {
		t.Helper()
		if diff := cmp.Diff(want, l.progress()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("ended")

	first.processLines(starts(1, builds), result(1, progress, "5,8,2,0"), starts(2, copyPaths), result(2, progress, "7,20,1,0"))
	want.Derivations = schemas.Counts{Done: 6, Running: 2, Failed: 2, Expected: 11}
	want.Paths = schemas.Counts{Done: 11, Running: 1, Failed: 1, Expected: 25}
	check("one is at work")

	second.processLines(starts(1, builds), result(1, progress, "1,0,4,1"), starts(2, copyPaths), result(2, progress, "1,0,20,3"))
	want.Derivations = schemas.Counts{Done: 7, Running: 6, Failed: 3, Expected: 16}
	want.Paths = schemas.Counts{Done: 12, Running: 21, Failed: 4, Expected: 37}
	check("two are, and one expects less than it has")
}

// The expected bytes are those of the downloads that have begun, or Nix's estimate of all, and at least
// the bytes that have arrived.
func TestProgressOfBytes(t *testing.T) {
	l, _ := events(t)
	p := l.newProcess()
	for _, step := range []struct {
		records []string
		want    schemas.Share
	}{
		{[]string{starts(1, copyPath), result(1, progress, "10,100")}, schemas.Share{Done: 10, Expected: 100}},
		{[]string{starts(2, copyPath), result(2, progress, "5,50")}, schemas.Share{Done: 15, Expected: 150}},
		{[]string{starts(3, realise), result(3, setExpected, "100,400")}, schemas.Share{Done: 15, Expected: 400}},
		{[]string{starts(4, substitute), result(4, setExpected, "100,100")}, schemas.Share{Done: 15, Expected: 500}},
		{[]string{result(4, setExpected, "103,7000")}, schemas.Share{Done: 15, Expected: 500}}, // of something else
		{[]string{stops(1), stops(3), stops(4)}, schemas.Share{Done: 15, Expected: 60}},
		{[]string{result(2, progress, "60,50")}, schemas.Share{Done: 70, Expected: 70}},
	} {
		p.processLines(step.records...)
		if got := l.progress().Bytes; got != step.want {
			t.Errorf("after %s: %+v, want %+v", step.records, got, step.want)
		}
	}
}

// Progress is reported 100 ms after the first change. The last progress is always reported, and nothing
// is reported twice.
func TestProgressInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reported []int64
		l := New(func(e schemas.Event) {
			if e, ok := e.(schemas.ProgressEvent); ok {
				reported = append(reported, e.Derivations.Done)
			}
		}, nixstore.Files{}, noSecrets)
		p := l.newProcess()
		check := func(when string, want ...int64) {
			t.Helper()
			synctest.Wait()
			l.mu.Lock() // it is held while tell is called
			defer l.mu.Unlock()
			if diff := cmp.Diff(want, reported); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		p.processLines(starts(1, builds), result(1, progress, "1,9,0,0"))
		time.Sleep(60 * time.Millisecond)
		p.processLines(result(1, progress, "2,9,0,0"))
		time.Sleep(40*time.Millisecond - time.Nanosecond)
		check("before 100 ms")
		time.Sleep(time.Nanosecond)
		check("after 100 ms", 2)
		time.Sleep(time.Second)
		p.processLines(result(1, progress, "2,9,0,0"))
		time.Sleep(time.Second)
		check("after a result that changes nothing", 2)
		for done := range 1000 {
			p.processLines(result(1, progress, fmt.Sprintf("%d,9,0,0", done)))
		}
		l.Close()
		time.Sleep(time.Second)
		check("at the end", 2, 999)
	})
}

// Only builds, downloads and what is fetched for them begin the phase of building, once.
func TestPhaseBegins(t *testing.T) {
	for kind, want := range map[int]int{copyPath: 1, build: 1, substitute: 1, realise: 0, copyPaths: 0, builds: 0, 101: 0} {
		l, reported := events(t)
		p := l.newProcess()
		p.processLines(starts(1, kind), starts(2, kind))
		got := 0
		for _, e := range *reported {
			if e == (schemas.PhaseEvent{Phase: schemas.Build}) {
				got++
			}
		}
		if got != want {
			t.Errorf("type %d: the phase begins %d times, want %d", kind, got, want)
		}
	}
}

// inShort returns the events of derivations and their lines in short.
func inShort(reported []schemas.Event) (short []string) {
	for _, e := range reported {
		switch e := e.(type) {
		case schemas.DerivationEvent:
			short = append(short, strings.TrimSpace(fmt.Sprint(e.State, " ", e.Derivation, " ", e.Phase)))
		case schemas.LineEvent:
			short = append(short, e.Derivation+": "+e.Text)
		}
	}
	return short
}

// Results are reported for builds only, and a phase only when it changes. A record with missing fields
// changes nothing.
func TestResults(t *testing.T) {
	l, reported := events(t)
	l.newProcess().processLines(
		starts(1, build), starts(2, substitute), starts(1, build), // which is known
		result(1, setPhase, `"unpackPhase"`), result(1, setPhase, `"unpackPhase"`), result(1, buildLogLine, `"a line"`),
		result(1, setPhase, `"buildPhase"`), result(2, setPhase, `"buildPhase"`), result(2, buildLogLine, `"of no build"`),
		result(1, progress, "1"), result(1, setExpected, ""), `{"action":"result","id":1,"type":106}`, `{"action":"start","id":3,"type":105}`)
	want := []string{"building /nix/store/00000000000000000000000000000001-1.drv", "building /nix/store/00000000000000000000000000000001-1.drv unpackPhase", "/nix/store/00000000000000000000000000000001-1.drv: a line",
		"building /nix/store/00000000000000000000000000000001-1.drv buildPhase"}
	if diff := cmp.Diff(want, inShort(*reported)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Counts are assigned to derivations in the order in which these ended.
func TestCountsDecide(t *testing.T) {
	l, reported := events(t)
	p := l.newProcess()
	p.processLines(starts(9, builds), starts(1, build), starts(2, build), starts(3, build), starts(4, build), starts(5, build))
	p.processLines(stops(1), stops(2), stops(3), stops(4))
	*reported = nil
	for _, step := range []struct{ record, want string }{
		{result(9, progress, "1,5,4,0"), "built /nix/store/00000000000000000000000000000001-1.drv"},
		{result(9, progress, "1,5,3,1"), "failed /nix/store/00000000000000000000000000000002-2.drv"},
		{result(9, progress, "1,5,3,1"), ""},
		{`{"action":"msg","level":0,"msg":"error: Cannot build '/nix/store/00000000000000000000000000000004-4.drv'."}`, "failed /nix/store/00000000000000000000000000000004-4.drv"},
		{`{"action":"msg","level":1,"msg":"warning: on '/nix/store/00000000000000000000000000000003-3.drv'."}`, ""},
		{result(9, progress, "3,5,1,1"), "built /nix/store/00000000000000000000000000000003-3.drv"}, // and one that nobody saw
		{stops(5), ""},
		{result(9, progress, "3,5,0,2"), "failed /nix/store/00000000000000000000000000000005-5.drv"},
	} {
		p.processLines(step.record)
		if got := strings.Join(inShort(*reported), ", "); got != step.want {
			t.Errorf("after %s: %q, want %q", step.record, got, step.want)
		}
		*reported = nil
	}
}

// A count that arrives before the end of its derivation is kept until then.
func TestCountedBefore(t *testing.T) {
	for counts, want := range map[[2]string]string{{"1,2,1,0", "1,2,0,0"}: "built", {"0,2,1,1", "0,2,0,1"}: "failed"} {
		l, reported := events(t)
		p := l.newProcess()
		p.processLines(starts(9, builds), starts(1, build), result(9, progress, counts[0]), result(9, progress, counts[1]))
		*reported = nil
		p.processLines(stops(1))
		if got := strings.Join(inShort(*reported), ", "); got != want+" /nix/store/00000000000000000000000000000001-1.drv" {
			t.Errorf("%s: %q", want, got)
		}
	}
}

// When a build fails, Nix kills the others, unless keep-going is set. It reports only that they end, and no result.
func TestKilledByFailure(t *testing.T) {
	l, reported := events(t)
	const first, second = "/nix/store/00000000000000000000000000000001-1.drv", "/nix/store/00000000000000000000000000000002-2.drv"
	l.Read(strings.NewReader(strings.Join([]string{
		starts(9, builds), starts(1, build), starts(2, build), result(2, buildLogLine, `"of the second"`), result(9, progress, "0,3,1,1"),
		stops(1), stops(2), stops(9), `{"action":"msg","level":0,"msg":"error: Cannot build '` + first + `'.\nReason: builder failed."}`,
	}, "\n")))
	want := []string{"building " + first, "building " + second, second + ": of the second", "failed " + first, "failed " + second}
	if diff := cmp.Diff(want, inShort(*reported)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := l.Failure().Derivation; got != first {
		t.Errorf("the reason is %s", got)
	}
}

// A name of a phase has at most 64 bytes. A longer text is no phase.
func TestLongestPhase(t *testing.T) {
	for length, want := range map[int]int{64: 2, 65: 1} {
		l, reported := events(t)
		l.newProcess().processLines(starts(1, build), result(1, setPhase, `"`+strings.Repeat("x", length)+`"`))
		if got := inShort(*reported); len(got) != want { // it begins, and has a phase
			t.Errorf("%d bytes: %q", length, got)
		}
	}
}

// A builder's line of up to 64 KiB is one event. A longer one is several, none of which is empty.
func TestLinesInParts(t *testing.T) {
	for length, want := range map[int][]int{64 << 10: {64 << 10}, 64<<10 + 1: {64 << 10, 1}, 128 << 10: {64 << 10, 64 << 10}} {
		l, reported := events(t)
		l.newProcess().processLines(starts(1, build), result(1, buildLogLine, `"`+strings.Repeat("x", length)+`"`))
		var got []int
		for _, e := range *reported {
			if line, ok := e.(schemas.LineEvent); ok {
				got = append(got, len(line.Text))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d bytes (-want +got):\n%s", length, diff)
		}
	}
}

// A record of 2 MiB is read, with the end of its line. A longer one is ignored.
func TestLongestRecord(t *testing.T) {
	for length, want := range map[int]int{2 << 20: 2, 2<<20 + 1: 0, 2<<20 + logBuffer: 0} {
		l, reported := events(t)
		record := starts(1, build)
		l.Read(strings.NewReader(record + strings.Repeat(" ", length-len(record)-1) + "\n"))
		if got := inShort(*reported); len(got) != want { // it begins and fails
			t.Errorf("%d bytes: %q", length, got)
		}
	}
}

// The end of a record that is too long is not read as a record.
func TestEndOfLongRecord(t *testing.T) {
	l, reported := events(t)
	l.Read(strings.NewReader(strings.Repeat("x", maxRecord) + starts(1, build) + "\n" + starts(2, build) + "\n"))
	want := []string{"building /nix/store/00000000000000000000000000000002-2.drv", "failed /nix/store/00000000000000000000000000000002-2.drv"}
	if diff := cmp.Diff(want, inShort(*reported)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The parts of a line are limited in total.
func TestLastLinesOfParts(t *testing.T) {
	log := &lastLines{secrets: noSecrets().Lines()}
	for range 3 {
		log.add(strings.Repeat("x", maxKeptLine/2-1), true)
	}
	log.add("end", false)
	log.add("next", false)
	if len(log.lines) != 2 || len(log.lines[0]) != 4096 || log.lines[1] != "next" {
		t.Errorf("%d lines, the first of %d bytes", len(log.lines), len(log.lines[0]))
	}
}

// A program of the job can write records of its own. Nonsense is not reported, and every number is in the
// range of exact numbers.
func TestNonsense(t *testing.T) {
	log, reported := events(t)
	const drv = "/nix/store/00000000000000000000000000000001-1.drv"
	records := []string{
		`{"action":"start","id":1,"type":105,"fields":["<b>no derivation</b>"]}`,
		`{"action":"start","id":2,"type":105,"fields":["` + drv + strings.Repeat("x", 300) + `.drv"]}`,
		`{"action":"start","id":3,"type":105,"fields":["` + drv + `"]}`,
		`{"action":"result","id":3,"type":104,"fields":["` + strings.Repeat("phase", 20) + `"]}`,
		`{"action":"result","id":3,"type":104,"fields":["a\nb"]}`,
		`{"action":"start","id":4,"type":104}`,
		`{"action":"result","id":4,"type":105,"fields":[-5,9223372036854775807,-9223372036854775808,99999999999999999999]}`,
	}
	for id := 10; id < 20; id++ {
		records = append(records, fmt.Sprintf(`{"action":"start","id":%d,"type":100}`, id),
			fmt.Sprintf(`{"action":"result","id":%d,"type":105,"fields":[9007199254740991,9223372036854775807,0,0]}`, id))
	}
	log.Read(strings.NewReader(strings.Join(records, "\n") + "\n"))
	log.Close()
	for _, e := range *reported {
		switch e := e.(type) {
		case schemas.DerivationEvent:
			if e.Derivation != drv || e.Phase != "" {
				t.Errorf("reported: %+v", e)
			}
		case schemas.ProgressEvent:
			for _, n := range []int64{e.Derivations.Done, e.Derivations.Running, e.Derivations.Expected, e.Derivations.Failed, e.Bytes.Done, e.Bytes.Expected} {
				if n < 0 || n > maxCount {
					t.Errorf("reported: %+v", e)
				}
			}
		}
	}
}
