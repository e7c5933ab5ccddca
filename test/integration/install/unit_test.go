//go:build integration

package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnit checks the example unit with systemd-analyze. Another program replaces the builder.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "examples/iglu-builder.service"))
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/bin/iglu-builder"
	unit := strings.ReplaceAll(string(text), program, "/bin/true")
	if unit == string(text) {
		t.Fatalf("it does not run %s", program)
	}
	name := filepath.Join(t.TempDir(), "iglu-builder.service")
	if err := os.WriteFile(name, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", name).CombinedOutput()
	if err != nil || len(output) > 0 {
		t.Errorf("%v: %s", err, output)
	}
}
