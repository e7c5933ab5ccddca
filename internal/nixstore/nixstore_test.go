package nixstore

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/wire"
)

// conn is both directions of a connection.
type conn struct {
	io.Reader
	io.Writer
}

// says returns what a daemon says that says numbers and strings.
func says(values ...any) io.ReadWriter {
	var b bytes.Buffer
	for _, value := range values {
		switch value := value.(type) {
		case int:
			wire.WriteUint64(&b, uint64(value))
		case string:
			wire.WriteString(&b, value)
		}
	}
	return conn{&b, io.Discard}
}

func TestOpenFails(t *testing.T) {
	for name, test := range map[string]struct {
		daemon io.ReadWriter
		want   string
	}{
		"nothing":            {says(), "EOF"},
		"no daemon":          {says("GET / HTTP/1.1"), "no Nix daemon"},
		"an old one":         {says(daemonMagic, 1<<8|21), "speaks version 1.21 of the worker protocol"},
		"one of the future":  {says(daemonMagic, 2<<8), "speaks version 2.0"},
		"one that refuses":   {says(daemonMagic, ourVersion, "2.26", 1, stderrError, "Error", 0, "Error", "go away", 0, 1, 0, "trace"), "go away"},
		"one that breaks":    {says(daemonMagic, ourVersion, "2.26", 1, stderrError, "Error"), "EOF"},
		"one that is unlike": {says(daemonMagic, ourVersion, "2.26", 1, 42), "0x2a"},
	} {
		if _, err := Open(test.daemon); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

// TestActivities has a daemon tell what it does before it answers, as Nix's do when they
// are asked to be verbose, in the versions that there are.
func TestActivities(t *testing.T) {
	greetings := map[string][]any{
		"1.29": {daemonMagic, 1<<8 | 29, stderrLast},
		"1.33": {daemonMagic, 1<<8 | 33, "2.8", stderrLast},
		"1.38": {daemonMagic, 1<<8 | 38, "2.26", 1, stderrLast},
	}
	for version, greeting := range greetings {
		store, err := Open(says(append(greeting, stderrNext, "some line\n",
			stderrStartActivity, 7, 3, 109, "looking", 2, 1, "a string", 0, 12, 0,
			stderrResult, 7, 105, 1, 0, 99, stderrStopActivity, 7, stderrLast,
			2, "/nix/store/a", "/nix/store/b")...))
		if err != nil {
			t.Fatal(version, err)
		}
		if got, err := store.Paths(); err != nil || !slices.Equal(got, []string{"/nix/store/a", "/nix/store/b"}) {
			t.Errorf("%s: got %q, %v", version, got, err)
		}
	}
}
