//go:build integration

package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

func TestMain(m *testing.M) { os.Exit(fixture.Main(m)) }

// dockerThrough returns a docker command that uses an agent with the keys of a side, agent or server. Docker
// verifies certificates in its own way.
func dockerThrough(a *fixture.Agent, side string, args ...string) *exec.Cmd {
	in := func(name string) string { return filepath.Join(a.Keys, side, name) }
	return exec.Command("docker", append([]string{"--host", a.At("localhost"), "--tlsverify",
		"--tlscacert", in("ca.pem"), "--tlscert", in("cert.pem"), "--tlskey", in("key.pem")}, args...)...)
}

// printed returns a job's output without the builder's own lines.
func printed(r fixture.Result) string {
	return strings.Join(slices.DeleteFunc(r.Lines, func(line string) bool { return strings.HasPrefix(line, "iglu: ") }), "\n")
}
