package nixstore

import (
	"bytes"
	"fmt"
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

const somePath = "/nix/store/00000000000000000000000000000000-some"

// storeThatSays returns a store whose daemon answers with numbers and strings.
func storeThatSays(t *testing.T, values ...any) *Store {
	t.Helper()
	store, err := Open(says(slices.Concat([]any{daemonMagic, ourVersion, "2.26", 1, stderrLast, stderrLast}, values)...))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// signedBy returns a daemon's description of a path with signatures.
func signedBy(signatures ...string) []any {
	values := []any{1, "", strings.Repeat("ab", 32), 0, 0, 120, 1, len(signatures)}
	for _, signature := range signatures {
		values = append(values, signature)
	}
	return append(values, "fixed:r:sha256:of-the-path")
}

// A job's user can add signatures of any length and number to any path. They must not make the path unreadable.
func TestInfoWithJunkSignatures(t *testing.T) {
	genuine := "cache.nixos.org-1:" + strings.Repeat("A", 86) + "=="
	many := make([]string, 200_000)
	for i := range many {
		many[i] = fmt.Sprintf("junk-1:%06d", i)
	}
	for name, test := range map[string]struct{ signatures, want []string }{
		"none":         {nil, nil},
		"a long one":   {[]string{"junk-1:" + strings.Repeat("A", 1_500_000), genuine}, []string{genuine}},
		"several long": {[]string{strings.Repeat("A", maxSignature+1), genuine, strings.Repeat("A", maxString+8)}, []string{genuine}},
		"the longest":  {[]string{strings.Repeat("A", maxSignature)}, []string{strings.Repeat("A", maxSignature)}},
		"empty ones":   {[]string{"", genuine, ""}, []string{genuine}},
		"many":         {append([]string{genuine}, many...), append([]string{genuine}, many[:maxSignatures-1]...)},
	} {
		store := storeThatSays(t, signedBy(test.signatures...)...)
		info, err := store.Info(somePath)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.Equal(info.Signatures, test.want) {
			t.Errorf("%s: got %d signatures, want %d", name, len(info.Signatures), len(test.want))
		}
		if info.ContentAddress != "fixed:r:sha256:of-the-path" { // it comes after the signatures
			t.Errorf("%s: its content address is %q", name, info.ContentAddress)
		}
	}
}

// A connection that breaks within a signature is an error.
func TestInfoBreaks(t *testing.T) {
	for _, length := range []int{8, 100, maxSignature, maxSignature + 1, 4096} {
		values := signedBy()
		values[len(values)-2] = 1 // signature, of which only the length follows
		store := storeThatSays(t, append(values[:len(values)-1], length)...)
		if info, err := store.Info(somePath); err == nil {
			t.Errorf("%d bytes: got %+v", length, info)
		}
	}
}
