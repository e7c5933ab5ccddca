package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobend"
)

const repository = "../.."

// documents returns the names of the documents: the Markdown files at the top of the repository and in docs.
func documents(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil || len(found) < 3 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		for _, name := range found {
			names = append(names, strings.TrimPrefix(filepath.ToSlash(name), repository+"/"))
		}
	}
	return names
}

// Blocks and spans of code in a document.
var (
	block = regexp.MustCompile("(?s)```.*?\n *```")
	span  = regexp.MustCompile("`[^`\n]*`")
)

// read returns a document without its blocks of code. It keeps their line ends.
func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return block.ReplaceAllStringFunc(string(text), func(code string) string {
		return strings.Repeat("\n", strings.Count(code, "\n"))
	})
}

// prose returns a document without any code.
func prose(t *testing.T, name string) string {
	t.Helper()
	return span.ReplaceAllString(read(t, name), "``")
}

var (
	// link is the target of a link or a picture, in Markdown or in HTML.
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)|src="([^"]+)"`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// TestLinks follows every relative link of a document: to a file of the repository, and to a heading of a
// document.
func TestLinks(t *testing.T) {
	anchors := make(map[string][]string)
	for _, name := range documents(t) {
		for i, line := range strings.Split(prose(t, name), "\n") {
			for _, match := range link.FindAllStringSubmatch(line, -1) {
				if err := followLink(t, anchors, name, match[1]+match[2]); err != nil {
					t.Errorf("%s:%d: %v", name, i+1, err)
				}
			}
		}
	}
}

func followLink(t *testing.T, anchors map[string][]string, from, target string) error {
	t.Helper()
	if strings.Contains(target, "://") {
		return nil
	}
	file, anchor, _ := strings.Cut(target, "#")
	name := from
	if file != "" {
		name = filepath.Join(filepath.Dir(from), file)
	}
	if _, err := os.Stat(filepath.Join(repository, name)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s does not exist", target)
	} else if err != nil {
		return err
	}
	if anchor == "" {
		return nil
	}
	if anchors[name] == nil {
		anchors[name] = anchorsOf(t, name)
	}
	if !slices.Contains(anchors[name], anchor) {
		return fmt.Errorf("%s has no heading #%s", name, anchor)
	}
	return nil
}

// anchorsOf returns the anchors of a document's headings, as GitHub makes them.
func anchorsOf(t *testing.T, name string) []string {
	t.Helper()
	var anchors []string
	for _, match := range heading.FindAllStringSubmatch(read(t, name), -1) {
		anchors = append(anchors, strings.Map(func(r rune) rune {
			switch r = unicode.ToLower(r); {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return r
			}
			return -1
		}, match[1]))
	}
	return anchors
}

// TestIndex checks that docs/README.md links to every other document.
func TestIndex(t *testing.T) {
	index := prose(t, "docs/README.md")
	for _, name := range documents(t) {
		if file, isDoc := strings.CutPrefix(name, "docs/"); isDoc && file != "README.md" && !strings.Contains(index, "]("+file) {
			t.Errorf("docs/README.md does not link to %s", name)
		}
	}
}

// TestDocumentedEnds compares the table of ends in docs/protocol.md with the ends that a builder reports.
func TestDocumentedEnds(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(repository, "docs/protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Ends\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var got, want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(section, -1) {
		got = append(got, row[1])
	}
	for _, end := range jobend.All {
		want = append(want, string(end))
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))); diff != "" {
		t.Errorf("docs/protocol.md (-ends +table):\n%s", diff)
	}
}

// TestDocumentedTests checks that the tests in the documents' commands (go test with -fuzz or -run) exist in the
// given packages.
func TestDocumentedTests(t *testing.T) {
	commands := regexp.MustCompile(`go test [^\n]*?(\./\S+)[^\n]* -(?:fuzz|run) '?\^?(\w+)`)
	for _, name := range documents(t) {
		text, err := os.ReadFile(filepath.Join(repository, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range commands.FindAllStringSubmatch(string(text), -1) {
			if !hasTest(t, command[1], command[2]) {
				t.Errorf("%s: %s has no test %s", name, command[1], command[2])
			}
		}
	}
}

// hasTest reports whether a package has a test whose name has a word.
func hasTest(t *testing.T, folder, word string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, folder, "*_test.go"))
	if err != nil || files == nil {
		t.Errorf("%s has no tests: %v", folder, err)
	}
	function := regexp.MustCompile(`(?m)^func (?:Test|Fuzz)?\w*` + word)
	return slices.ContainsFunc(files, func(name string) bool {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		return function.Match(text)
	})
}
