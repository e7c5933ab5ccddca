package docker

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every call that the engine can fail at is counted from the start.
func TestCalls(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	call, found := regexp.MustCompile(`callFailure\("([^"]+)"`), 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range call.FindAllStringSubmatch(string(text), -1) {
			found++
			if !slices.Contains(Calls, match[1]) {
				t.Errorf("%s: Calls lacks %q", file, match[1])
			}
		}
	}
	if found < len(Calls)-3 {
		t.Errorf("%d calls are found of %q", found, Calls)
	}
}
