package jobrun

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

const path1, path2 = "/nix/store/00000000000000000000000000000000-a", "/nix/store/11111111111111111111111111111111-b.0+_?=-"

// TestOutput lets a build and a push write alternately, with the output of the build split at every byte.
func TestOutput(t *testing.T) {
	long := strings.Repeat("/nix/store/", 100)
	printed := path1 + "\n" + " " + path1 + "\n" + path1 + "/bin\n" + path2 + "\r\n" + long + path1 + "\n\n" + long + "\n" + path2
	for size := 1; size <= len(printed); size++ {
		var w bytes.Buffer
		o := &output{w: &w}
		for chunk := range slices.Chunk([]byte(printed), size) {
			o.Write(chunk)
			o.say("pushed %d", size)
		}
		if got, want := o.end(), []string{path1, path2, path2}; !slices.Equal(got, want) {
			t.Errorf("chunks of %d: paths %q, want %q", size, got, want)
		}
		var lines, said []string
		for line := range strings.Lines(w.String()) {
			if strings.HasPrefix(line, "iglu: pushed ") {
				said = append(said, line)
			} else {
				lines = append(lines, line)
			}
		}
		if got := strings.Join(lines, ""); got != printed+"\n" {
			t.Errorf("chunks of %d: got %q", size, got)
		}
		if want := (len(printed) + size - 1) / size; len(said) != want {
			t.Errorf("chunks of %d: %d lines of the push, want %d", size, len(said), want)
		}
	}
}

// A command that prints the same paths for hours takes no memory for that. The first ones are kept, because results are
// told apart by their order.
func TestOutputOfRepeatedPaths(t *testing.T) {
	o := &output{w: io.Discard}
	o.Write([]byte(strings.Repeat(path1+"\n", 10*maxResults) + path2 + "\n" + path2))
	got := o.printed()
	if len(got) != maxResults+1 || got[maxResults-1] != path1 || got[maxResults] != path2 {
		t.Errorf("%d paths, the last is %s", len(got), got[len(got)-1])
	}
}

// Lines that are no paths cause no allocations.
func TestOutputAllocatesNothing(t *testing.T) {
	o := &output{w: io.Discard}
	text := []byte(strings.Repeat("a line that a command prints\n", 1000))
	o.Write(text)
	if n := testing.AllocsPerRun(10, func() { o.Write(text) }); n > 0 {
		t.Errorf("%v allocations for 1000 lines", n)
	}
}
