package buildid

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestOf builds a program twice as it is, and once as another version.
func TestOf(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module example.com/program\n\ngo 1.26\n",
		"main.go": "package main\n\nvar version string\n\nfunc main() { print(version) }\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := func(name, version string) string {
		command := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -X main.version="+version, "-o", name, ".")
		command.Dir = folder
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		id, err := Of(filepath.Join(folder, name))
		if err != nil || !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(id) {
			t.Fatalf("%q, %v", id, err)
		}
		return id
	}
	first := build("first", "1.2.3")
	if again := build("again", "1.2.3"); again != first {
		t.Errorf("the same program has the IDs %s and %s", first, again)
	}
	if other := build("other", "1.2.4"); other == first {
		t.Errorf("another version has the same ID %s", first)
	}
	if id, err := Of(filepath.Join(folder, "main.go")); err == nil {
		t.Errorf("what is no program has the ID %q", id)
	}
}
