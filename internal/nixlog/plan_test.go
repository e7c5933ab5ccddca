package nixlog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/schemas"
)

// drv returns the path of a derivation with this name.
func drv(name string) string {
	return fmt.Sprintf("/nix/store/%032d-%s.drv", crc32.ChecksumIEEE([]byte(name)), name)
}

// out returns the path of its output.
func out(name string) string { return strings.TrimSuffix(drv(name), ".drv") }

// storeOf writes the .drv files of derivations, by their needs, and returns their store.
func storeOf(t testing.TB, needs map[string][]string) nixstore.Files {
	t.Helper()
	store := nixstore.Files{Root: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(store.Root, "nix/store"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, inputs := range needs {
		var list []string
		for _, input := range inputs {
			list = append(list, fmt.Sprintf(`("%s",["out"])`, drv(input)))
		}
		text := fmt.Sprintf(`Derive([("out","%s","","")],[%s],[],"","",[],[])`, out(name), strings.Join(list, ","))
		if err := os.WriteFile(store.Root+drv(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

// say returns records with messages for people.
func say(lines ...string) string {
	var records strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&records, `{"action":"msg","level":3,"msg":%q}`+"\n", line)
	}
	return records.String()
}

// planned returns the derivations that are listed for the records of some processes, and the number of
// events.
func planned(t testing.TB, store nixstore.Files, processes ...string) (all []schemas.PlannedDerivation, events int) {
	l := New(func(e schemas.Event) {
		if e, ok := e.(schemas.PlanEvent); ok {
			if e.First != len(all) {
				t.Errorf("number %d is the first of a piece, want %d", e.First, len(all))
			}
			all = append(all, e.Derivations...)
			events++
		}
	}, store, noSecrets)
	for _, records := range processes {
		l.Read(strings.NewReader(records))
	}
	l.Close()
	return all, events
}

func TestPlan(t *testing.T) {
	store := storeOf(t, map[string][]string{"a": {"there"}, "b": {"a"}, "c": {"a"}, "d": {"b", "c"}, "e": {"d", "a"}})
	building := func(name string) string {
		return fmt.Sprintf(`{"action":"start","id":1,"type":105,"fields":["%s"]}`+"\n", drv(name))
	}
	diamond := say("these 4 derivations will be built:", "  "+drv("a"), "  "+drv("b"), "  "+drv("c"), "  "+drv("d"))
	want := []schemas.PlannedDerivation{{Derivation: drv("a")}, {Derivation: drv("b"), Needs: []int{0}}, {Derivation: drv("c"), Needs: []int{0}}, {Derivation: drv("d"), Needs: []int{1, 2}}}
	for name, test := range map[string]struct {
		processes []string
		want      []schemas.PlannedDerivation
	}{
		"a diamond":              {[]string{diamond + building("a")}, want},
		"nothing after it":       {[]string{diamond}, want},
		"something else after":   {[]string{diamond + say("  "+drv("e")+" is no path", "  "+drv("e"))}, want},
		"what is to be fetched":  {[]string{say("this path will be fetched (0.1 MiB download, 0.2 MiB unpacked):", "  "+out("e")) + diamond}, want},
		"reported twice":         {[]string{diamond + diamond}, want},
		"not indented":           {[]string{diamond + say(drv("e"))}, want},
		"reported in part":       {[]string{building("a"), diamond}, want},
		"another process":        {[]string{diamond, say("this derivation will be built:", "  "+drv("e"))}, append(want[:4:4], schemas.PlannedDerivation{Derivation: drv("e"), Needs: []int{0, 3}})},
		"what was not planned":   {[]string{building("a"), building("b")}, want[:2]},
		"of another store":       {[]string{building("f")}, []schemas.PlannedDerivation{{Derivation: drv("f")}}},
		"a heading without list": {[]string{say("these 4 derivations will be built:", "else", "  "+drv("a"))}, nil},
	} {
		if got, _ := planned(t, store, test.processes...); cmp.Diff(test.want, got) != "" {
			t.Errorf("%s (-want +got):\n%s", name, cmp.Diff(test.want, got))
		}
	}
}

// A plan of thousands of derivations is reported in pieces, and its total length is limited.
func TestPlanBounds(t *testing.T) {
	const (
		inputs  = 120 // of each of the last ones, in between those and the others: their numbers are long
		last    = maxNeeds/inputs + 10
		longest = 207 // bytes of a name without its ".drv"
	)
	needed := func(n int) bool { return n >= maxPlanned-last-inputs && n < maxPlanned-last }
	nameOf := func(n int) string {
		if needed(n) {
			return fmt.Sprint(n) // which is quicker to read
		}
		return fmt.Sprintf("%0*d", longest, n)
	}
	needs := make(map[string][]string)
	lines := []string{"these 10000 derivations will be built:"}
	var many []string
	for n := range maxPlanned + 1 {
		lines = append(lines, "  "+drv(nameOf(n)))
		switch {
		case needed(n):
			many = append(many, nameOf(n))
		case n >= maxPlanned-last:
			needs[nameOf(n)] = many
		}
	}
	all, events := planned(t, storeOf(t, needs), say(lines...))
	size, reported := 0, 0
	for _, d := range all {
		reported += len(d.Needs)
	}
	size = len(schemas.AppendEvent(nil, schemas.PlanEvent{Derivations: all}))
	if len(all) != 8192 || reported != 32768 || events != 17 || size > 5<<19 {
		t.Errorf("%d derivations with %d needs in %d events, %d bytes", len(all), reported, events, size)
	}
}

// A job cannot cause a delay by replacing a .drv file with something else.
func TestPlanOfNoFiles(t *testing.T) {
	store := storeOf(t, nil)
	if err := errors.Join(os.Mkdir(store.Root+drv("folder"), 0o755), os.Symlink("/dev/zero", store.Root+drv("device")), syscall.Mkfifo(store.Root+drv("pipe"), 0o644)); err != nil {
		t.Fatal(err)
	}
	got, _ := planned(t, store, say("these 3 derivations will be built:", "  "+drv("folder"), "  "+drv("device"), "  "+drv("pipe")))
	want := []schemas.PlannedDerivation{{Derivation: drv("folder")}, {Derivation: drv("device")}, {Derivation: drv("pipe")}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// BenchmarkPlan measures how long Nix waits for a plan of 3,000 derivations with ten needs each.
func BenchmarkPlan(b *testing.B) {
	needs := make(map[string][]string)
	lines := []string{"these 3000 derivations will be built:"}
	for n := range 3000 {
		name := fmt.Sprint("package-", n)
		needs[name] = nil
		for i := max(0, n-10); i < n; i++ {
			needs[name] = append(needs[name], fmt.Sprint("package-", i))
		}
		lines = append(lines, "  "+drv(name))
	}
	store, records := storeOf(b, needs), say(lines...)
	for b.Loop() {
		planned(b, store, records)
	}
}
