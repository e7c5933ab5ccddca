package nixlog

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden files anew")

// eventsOf returns the events of records as lines of JSON. Each argument has the records of a process. Of
// the progress, only the last event is returned.
func eventsOf(processes ...string) string {
	var out bytes.Buffer
	l := New(func(e schemas.Event) { out.Write(append(schemas.AppendEvent(nil, e), '\n')) }, nixstore.Files{Root: "testdata"}, noSecrets)
	l.interval = time.Hour
	for _, records := range processes {
		l.Read(iotest.OneByteReader(strings.NewReader(records)))
	}
	l.Close()
	return out.String()
}

// TestRecorded converts logs of real Nix processes (2.34.8). In failing.jsonl, three derivations are built
// and one fails, two of them at once. In substituted.jsonl, two paths are downloaded from a cache.
// testdata/nix has the beginnings of the derivations of the first. -update writes the golden files again.
func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		records, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got := eventsOf(string(records))
		golden := strings.TrimSuffix(file, ".jsonl") + ".events"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if diff := cmp.Diff(string(want), got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", file, err, diff)
		}
	}
}

// The counts of two processes are added, whether these run one after the other or at the same time.
func TestProcesses(t *testing.T) {
	records, err := os.ReadFile("testdata/failing.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"type":"progress","derivations":{"done":6,"running":0,"expected":8,"failed":2},` +
		`"paths":{"done":0,"running":0,"expected":0,"failed":0},"bytes":{"done":0,"expected":0}}` + "\n"
	if got := eventsOf(string(records), string(records)); !strings.HasSuffix(got, want) {
		t.Errorf("got:\n%s", got)
	}
	var last schemas.Event
	l := New(func(e schemas.Event) { last = e }, nixstore.Files{Root: "testdata"}, noSecrets)
	done := make(chan struct{})
	for range 2 {
		go func() {
			l.Read(bytes.NewReader(records))
			done <- struct{}{}
		}()
	}
	<-done
	<-done
	l.Close()
	if got := string(schemas.AppendEvent(nil, last)) + "\n"; got != want {
		t.Errorf("at once: %s", got)
	}
}

const (
	begin = `{"action":"start","id":18446744073709551615,"type":104}` + "\n" +
		`{"action":"start","id":9007199254740993,"type":105,"fields":["/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a.drv"]}` + "\n"
	line   = `{"action":"result","id":9007199254740993,"type":101,"fields":["text"]}` + "\n"
	end    = `{"action":"stop","id":9007199254740993}` + "\n"
	count  = `{"action":"result","id":18446744073709551615,"type":105,"fields":[%d,%d,0,%d]}` + "\n"
	failed = `{"action":"msg","level":0,"msg":"error: Cannot build '/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a.drv'."}` + "\n"
)

// There are several ways in which Nix reports the result of a derivation. Not every version has all.
func TestOutcomes(t *testing.T) {
	for name, test := range map[string]struct{ records, state string }{
		"counted before":          {begin + line + fmt.Sprintf(count, 1, 1, 0) + end, "built"},
		"counted after":           {begin + line + end + fmt.Sprintf(count, 1, 1, 0), "built"},
		"counted as failed":       {begin + line + fmt.Sprintf(count, 0, 1, 1) + end, "failed"},
		"counted as failed after": {begin + line + end + fmt.Sprintf(count, 0, 1, 1), "failed"},
		"named in an error":       {begin + line + end + failed, "failed"},
		"not counted":             {begin + line + end, "built"},
		"killed":                  {begin + line, "failed"},
		"torn":                    {begin + line + end[:20], "failed"},
	} {
		got := eventsOf(test.records)
		if !strings.Contains(got, `"state":"`+test.state+`"`) || strings.Count(got, `"state"`) != 2 ||
			strings.Contains(got, `"log":["text"]`) != (test.state == "failed") {
			t.Errorf("%s: want %s, got:\n%s", name, test.state, got)
		}
	}
}

// TestOrderOfKilled ends a log in the middle of several builds, as when Nix is killed. They are reported in the order in which
// they began.
func TestOrderOfKilled(t *testing.T) {
	const builds = 8
	var records strings.Builder
	var want []string
	for i := range builds {
		name := string(rune('a' + i))
		fmt.Fprintf(&records, `{"action":"start","id":%d,"type":105,"fields":["/nix/store/%s-%s.drv"]}`+"\n", i+1, strings.Repeat("a", 32), name)
		want = append(want, name)
	}
	var got []string
	for line := range strings.Lines(eventsOf(records.String())) {
		if strings.Contains(line, `"state":"failed"`) {
			_, name, _ := strings.Cut(line, strings.Repeat("a", 32)+"-")
			got = append(got, name[:1])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A line that is no record, or an unknown one, changes nothing.
func TestOtherRecords(t *testing.T) {
	others := strings.Join([]string{
		``, `{`, `@nix`, `[]`, `null`, `1`, `"text"`, `{"action":1}`, `{"action":"start"}`, `{"action":"start","id":-1,"type":105}`,
		`{"action":"start","id":1.5,"type":105}`, `{"action":"start","id":1,"type":999,"fields":["x"]}`, `{"action":"stop","id":77}`,
		`{"action":"result","id":1,"type":101,"fields":["x"]}`, `{"action":"result","id":9007199254740993,"type":999,"fields":[1]}`,
		`{"action":"result","id":9007199254740993,"type":105,"fields":[1,1,1,1]}`, `{"action":"msg","level":0,"msg":"error: of something else"}`,
		`{"action":"result","id":9007199254740992,"type":101,"fields":["of another id"]}`, `{"action":"later","id":9007199254740993}`,
		`{"action":"msg","level":0,"msg":"` + strings.Repeat("x", maxRecord) + `"}`,
	}, "\n") + "\n"
	want := eventsOf(begin + line + fmt.Sprintf(count, 1, 1, 0) + end)
	got := eventsOf(others + begin + others + "@nix " + line + others + fmt.Sprintf(count, 1, 1, 0) + end + others)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// However long the log is, the use of memory is limited.
func TestBounds(t *testing.T) {
	var records strings.Builder
	for id := range 2 * maxActivities {
		fmt.Fprintf(&records, `{"action":"start","id":%d,"type":105,"fields":["/nix/store/%032d-x.drv"]}`+"\n", id, id)
	}
	for range 100 {
		fmt.Fprintf(&records, `{"action":"result","id":1,"type":101,"fields":["%s"]}`+"\n", strings.Repeat("x", 2*maxKeptLine))
	}
	building, kept := 0, 0
	l := New(func(e schemas.Event) {
		if d, ok := e.(schemas.DerivationEvent); ok {
			if d.State == schemas.DerivationBuilding {
				building++
			}
			for _, line := range d.Log {
				kept += len(line)
			}
		}
	}, nixstore.Files{Root: "testdata"}, noSecrets)
	l.Read(strings.NewReader(records.String()))
	l.Close()
	if building != maxActivities || kept != keptLines*maxKeptLine || l.activities != 0 {
		t.Errorf("%d derivations, %d bytes of lines, %d activities left", building, kept, l.activities)
	}
}

func FuzzRead(f *testing.F) {
	for _, file := range []string{"failing", "substituted"} {
		records, err := os.ReadFile("testdata/" + file + ".jsonl")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(records)
	}
	f.Add([]byte(begin + line + end + failed))
	f.Fuzz(func(t *testing.T, records []byte) {
		open := map[string]int{}
		l := New(func(e schemas.Event) {
			if !json.Valid(schemas.AppendEvent(nil, e)) {
				t.Errorf("not JSON: %s", schemas.AppendEvent(nil, e))
			}
			if d, ok := e.(schemas.DerivationEvent); ok && d.State != schemas.DerivationBuilding {
				open[d.Derivation]--
			} else if ok && d.Phase == "" {
				open[d.Derivation]++
			}
		}, nixstore.Files{Root: "testdata"}, noSecrets)
		l.interval = time.Hour // the timer would make the coverage random
		l.Read(bytes.NewReader(records))
		l.Close()
		for derivation, n := range open {
			if n < 0 {
				t.Errorf("%s has ended more often than begun", derivation)
			}
		}
		if l.activities != 0 || len(l.running) != 0 {
			t.Errorf("%d activities are left", l.activities)
		}
	})
}
