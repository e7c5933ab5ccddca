package jobrun

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestNamesIn lists a folder. That allocates little more than the names: each job lists its store twice, and a store has
// some 10,000 paths.
func TestNamesIn(t *testing.T) {
	folder := t.TempDir()
	var want []string
	for n := range 1000 {
		want = append(want, fmt.Sprintf("%032d-path", n))
		if err := os.Mkdir(filepath.Join(folder, want[n]), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(namesIn(folder)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if allocated := testing.AllocsPerRun(10, func() { namesIn(folder) }); allocated > 1.1*float64(len(want)) {
		t.Errorf("%v allocations for %d names", allocated, len(want))
	}
	if names := namesIn(filepath.Join(folder, "missing")); len(names) > 0 {
		t.Errorf("in a folder that does not exist: %q", names)
	}
}
