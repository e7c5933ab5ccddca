package server

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// fits reports whether a value matches a kind.
func (k Kind) fits(text string) bool {
	if slices.Contains(k.Words, text) {
		return true
	}
	switch k.Type {
	case Text:
		return k.Form == "" || regexp.MustCompile("^("+k.Form+")$").MatchString(text)
	case Number:
		n, err := strconv.ParseInt(text, 10, 64)
		return err == nil && n >= k.Min && n <= k.Max
	case List, File, Folder:
		return true
	}
	return false
}

// TestKinds compares the kind of each setting with its parser: the parser accepts only values that match the
// kind, and accepts the words and limits of the kind.
func TestKinds(t *testing.T) {
	samples := strings.Fields("0 1 3 64 4096 1.5 75% 100% 7d 20,7d 30s 5m 1h30m 1.5h 250ms 1048576 1MiB 50GB 64m 1.5GiB 8MiB 512k 10b " +
		"all auto off on yes no default nix root missing repository text json debug :3000 127.0.0.1:3000 [::1]:0 " +
		"localhost:http https://example.com http://localhost:8080 http://a.example,http://b.example nix,nix-build " +
		"nixos/nix:2.34.8 a.b_c-d /etc/file")
	for _, setting := range Table() {
		set := setter(t, setting.Flag)
		fits := setting.Kind.fits
		t.Run(setting.Flag, func(t *testing.T) {
			if setting.Default != "" && !fits(setting.Default) {
				t.Errorf("its default is %q", setting.Default)
			}
			taken := 0
			for _, text := range samples {
				if err := set(text); err == nil && !fits(text) {
					t.Errorf("it takes %q, which is not of its kind", text)
				} else if err == nil {
					taken++
				}
			}
			if taken == 0 {
				t.Error("it takes none of the samples")
			}
			for _, word := range setting.Kind.Words {
				if err := set(word); err != nil {
					t.Errorf("%q is a word of its kind: %v", word, err)
				}
			}
			if k := setting.Kind; k.Type == Number {
				for n, want := range map[int64]bool{k.Min - 1: false, k.Min: true, k.Max: true, k.Max + 1: false} {
					if err := set(fmt.Sprint(n)); (err == nil) != want {
						t.Errorf("%d, of %d to %d: %v", n, k.Min, k.Max, err)
					}
				}
			}
			if k := setting.Kind; k.Form != "" && fits("a b") {
				t.Errorf("%q is of its kind", "a b")
			}
		})
	}
}

// setter returns a function that sets a setting.
func setter(t *testing.T, name string) func(text string) error {
	var s Settings
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(flags)
	f := flags.Lookup(name)
	if f == nil {
		t.Fatalf("there is no flag --%s", name)
	}
	return f.Value.Set
}
