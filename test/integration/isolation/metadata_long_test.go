//go:build integration && long

package isolation

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// metadataRule matches the firewall rule in docs/security.md.
const metadataRule = "iptables -I DOCKER-USER -d 169.254.0.0/16 -j REJECT"

// TestMetadataRule runs a job that reaches a service at a link-local address outside the machine, like the
// metadata service of a cloud. With the rule in the documentation it cannot reach it.
func TestMetadataRule(t *testing.T) {
	const host, service = "169.254.77.1/30", "169.254.77.2"
	text, err := os.ReadFile(fixture.RepoPath("docs/security.md"))
	if err != nil || !strings.Contains(string(text), "\n"+metadataRule+"\n") {
		t.Fatalf("docs/security.md does not have the rule: %v", err)
	}
	do := func(command string, args ...string) {
		t.Helper()
		if output, err := exec.Command(command, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v: %s", command, args, err, output)
		}
	}
	program := filepath.Join(t.TempDir(), "attack")
	if err := os.WriteFile(program, fixture.BuildProgram(t, "attack"), 0o755); err != nil {
		t.Fatal(err)
	}
	name := "iglu-" + strings.ToLower(rand.Text()[:6])
	do("ip", "netns", "add", name)
	t.Cleanup(func() { exec.Command("ip", "netns", "delete", name).Run() })
	do("ip", "link", "add", name, "type", "veth", "peer", "name", "inside", "netns", name)
	do("ip", "address", "add", host, "dev", name)
	do("ip", "link", "set", name, "up")
	do("ip", "-n", name, "address", "add", service+"/30", "dev", "inside")
	do("ip", "-n", name, "link", "set", "inside", "up")
	serving := exec.Command("ip", "netns", "exec", name, program, "serve")
	if err := serving.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { serving.Process.Kill(); serving.Wait() })
	address := service + ":8080"
	if err := fixture.AwaitListener(address); err != nil {
		t.Fatal(err)
	}
	s := fixture.ServerWith(t, func(s *server.Settings) {
		s.JobImage, s.AllowedCommands = fixture.DockerEngine().AttackImage(t), []string{"attack"}
	})
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("attack dial "+address)), 0)
	rule := strings.Fields(metadataRule)
	do(rule[0], rule[1:]...)
	t.Cleanup(func() {
		rule[1] = "-D"
		exec.Command(rule[0], rule[1:]...).Run()
	})
	wantRefused(t, fixture.Do(t, s, fixture.Command("attack dial "+address)))
}
