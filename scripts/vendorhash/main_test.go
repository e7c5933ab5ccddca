package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVendorHash changes the version of a module, which changes go.sum.
func TestVendorHash(t *testing.T) {
	folder := newModule(t)
	require(t, folder, "v1.0.0")
	if err := update(folder); err != nil {
		t.Fatal(err)
	}
	first := read(t, folder, packageFile)
	if !strings.HasPrefix(first, "  vendorHash = \"sha256-") {
		t.Fatalf("it has written %q", first)
	}
	if err := check(folder); err != nil {
		t.Errorf("with the hash that it has written: %v", err)
	}

	sums := read(t, folder, "go.sum")
	require(t, folder, "v1.1.0")
	if read(t, folder, "go.sum") == sums {
		t.Fatal("go.sum is the same")
	}
	err := check(folder)
	if err == nil || !strings.Contains(err.Error(), "the modules have changed") {
		t.Fatalf("after go.sum has changed: %v", err)
	}
	if err := update(folder); err != nil {
		t.Fatal(err)
	}
	second := read(t, folder, packageFile)
	hash := strings.TrimSuffix(strings.TrimPrefix(second, "  vendorHash = "), ";\n")
	if second == first || !strings.Contains(err.Error(), "has to be "+hash) {
		t.Errorf("%v; it has written %s", err, hash)
	}

	write(t, filepath.Join(folder, "go.sum"), sums) // of the other version
	if err := check(folder); err == nil || !strings.Contains(err.Error(), "go mod vendor") {
		t.Errorf("with another version's go.sum: %v", err)
	}
}

func TestNoVendorHash(t *testing.T) {
	folder := newModule(t)
	write(t, filepath.Join(folder, packageFile), "vendorHash = null;\n")
	if err := check(folder); err == nil || !strings.Contains(err.Error(), "has no line 'vendorHash") {
		t.Error(err)
	}
}

// newModule returns the folder of a module that imports another one. The other has two versions, on a module proxy in a
// folder.
func newModule(t *testing.T) string {
	t.Helper()
	proxy := t.TempDir()
	for _, version := range []string{"v1.0.0", "v1.1.0"} {
		const mod = "module example.com/a\n\ngo 1.21\n"
		var archive bytes.Buffer
		w := zip.NewWriter(&archive)
		for name, text := range map[string]string{"go.mod": mod, "a.go": fmt.Sprintf("package a\n\nconst Version = %q\n", version)} {
			file, err := w.Create("example.com/a@" + version + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(file, text)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		base := filepath.Join(proxy, "example.com/a/@v", version)
		write(t, base+".mod", mod)
		write(t, base+".zip", archive.String())
		write(t, base+".info", fmt.Sprintf(`{"Version":%q}`, version))
	}
	for name, value := range map[string]string{
		"GOPROXY": "file://" + proxy, "GONOSUMDB": "*", "GOMODCACHE": t.TempDir(), "GOFLAGS": "-modcacherw",
	} {
		t.Setenv(name, value)
	}
	folder := t.TempDir()
	write(t, filepath.Join(folder, "main.go"), "package main\n\nimport \"example.com/a\"\n\nfunc main() { println(a.Version) }\n")
	write(t, filepath.Join(folder, packageFile), "  vendorHash = \"\";\n")
	return folder
}

// require makes the module require a version of the other.
func require(t *testing.T, folder, version string) {
	t.Helper()
	write(t, filepath.Join(folder, "go.mod"), "module example.com/main\n\ngo 1.21\n\nrequire example.com/a "+version+"\n")
	command := exec.Command("go", "mod", "tidy")
	command.Dir = folder
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("go mod tidy: %v: %s", err, output)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, folder, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
