// Package nixconf reads and writes lines of nix.conf, Nix's configuration file. The format is described in
// nix.conf(5), and implemented by parseConfigFiles in libutil/configuration.cc of Nix's sources.
package nixconf

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// A Setting is one line of nix.conf.
type Setting struct {
	Line  int    // its number, from 1 on
	Name  string // as written there; "extra-" at its beginning adds to a list
	Value string // its words, separated by one space
}

// extra at the beginning of a name adds to a list.
const extra = "extra-"

func (s Setting) isExtra() bool { return strings.HasPrefix(s.Name, extra) }

// Base returns the present name of the setting, without "extra-". Some settings have an older name.
func (s Setting) Base() string {
	name := strings.TrimPrefix(s.Name, extra)
	if today := aliases[name]; today != "" {
		return today
	}
	return name
}

// aliases are the older names that Nix still accepts, for the settings that are used here: globals.hh of its
// sources.
var aliases = map[string]string{
	"binary-caches":            "substituters",
	"trusted-binary-caches":    "trusted-substituters",
	"binary-cache-public-keys": "trusted-public-keys",
	"build-use-sandbox":        "sandbox",
	"build-use-chroot":         "sandbox",
	"build-max-jobs":           "max-jobs",
	"build-cores":              "cores",
}

// Words returns the value as a list.
func (s Setting) Words() []string { return strings.Fields(s.Value) }

// Parse returns the settings in a text, in their order. The error has the number of the first line that is
// not a setting, but never its text, which may be secret.
func Parse(text string) ([]Setting, error) {
	var settings []Setting
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) < 2 || words[1] != "=" {
			return nil, fmt.Errorf("line %d is not of the form NAME = VALUE, with spaces around the =", number)
		}
		settings = append(settings, Setting{Line: number, Name: words[0], Value: strings.Join(words[2:], " ")})
	}
	return settings, nil
}

// Get returns the last value of a setting in a text, and whether there is one. It finds older names of the
// setting, too. It skips "extra-" lines, and lines that are no settings, such as an include.
func Get(text, name string) (value string, ok bool) {
	for s := range linesOf(text, name) {
		if !s.isExtra() {
			value, ok = s.Value, true
		}
	}
	return value, ok
}

// IsOff reports whether a text sets a setting that is on by default, such as require-sigs, to false.
func IsOff(text, name string) bool {
	value, _ := Get(text, name)
	return slices.Contains([]string{"false", "no", "0"}, value)
}

// HasCADerivations reports whether a text enables content-addressed derivations. Then a store has records of what
// each of them has yielded, and Nix's daemon accepts such a record from every user without verification
// (RegisterDrvOutput in daemon.cc of Nix's sources). So each job of a store can forge the results of later jobs.
func HasCADerivations(text string) bool {
	return slices.Contains(List(text, "experimental-features"), "ca-derivations")
}

// List returns the words of a setting that is a list, with those that "extra-" lines add.
func List(text, name string) (words []string) {
	for s := range linesOf(text, name) {
		if !s.isExtra() {
			words = nil
		}
		words = append(words, s.Words()...)
	}
	return words
}

// linesOf yields the lines of a text that set a setting or add to it. It skips lines that are no settings.
func linesOf(text, name string) iter.Seq[Setting] {
	return func(yield func(Setting) bool) {
		for line := range strings.Lines(text) {
			settings, err := Parse(line)
			if err == nil && len(settings) == 1 && settings[0].Base() == name && !yield(settings[0]) {
				return
			}
		}
	}
}

// maxIncludes is how deeply files may include each other. Nix has no limit, and fails if a file includes itself.
const maxIncludes = 16

// ReadFile returns the text of a file, in which the text of another file replaces each line that includes it. The name
// of an included file is relative to the folder of the file that includes it. A file that cannot be read has no text.
func ReadFile(name string) string { return readFile(name, maxIncludes) }

func readFile(name string, includes int) string {
	text, _ := os.ReadFile(name)
	var whole strings.Builder
	for line := range strings.Lines(string(text)) {
		setting, _, _ := strings.Cut(line, "#")
		words := strings.Fields(setting)
		isInclude := len(words) == 2 && (words[0] == "include" || words[0] == "!include")
		switch {
		case !isInclude:
			whole.WriteString(line)
		case includes > 0:
			other := words[1]
			if !filepath.IsAbs(other) {
				other = filepath.Join(filepath.Dir(name), other)
			}
			whole.WriteString(readFile(other, includes-1) + "\n")
		}
	}
	return whole.String()
}

// Lines builds a text of lines of nix.conf.
type Lines struct{ text strings.Builder }

// Set adds a line. It does nothing if the value would end the line or begin a comment.
func (l *Lines) Set(name string, value any) {
	if text := fmt.Sprint(value); !strings.ContainsFunc(text, endsValue) {
		fmt.Fprintf(&l.text, "%s = %s\n", name, text)
	}
}

// SetList adds a line with the words. It skips words that a line cannot have, and does nothing if none is left.
func (l *Lines) SetList(name string, words []string) {
	isNone := func(word string) bool { return word == "" || strings.ContainsFunc(word, endsWord) }
	if words = slices.DeleteFunc(slices.Clone(words), isNone); len(words) > 0 {
		l.Set(name, strings.Join(words, " "))
	}
}

func endsValue(c rune) bool { return c == '#' || unicode.IsControl(c) }

func endsWord(c rune) bool { return endsValue(c) || unicode.IsSpace(c) }

// String returns the lines, each with its end.
func (l *Lines) String() string { return l.text.String() }
