//go:build integration

package install

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	igluStack    = "examples/iglu-stack/docker-compose.yml"
	igluAgent    = "examples/iglu-stack/agent.yml"
	igluTemplate = "examples/iglu-stack/env.example"
)

// TestIgluStack checks the example Iglu stack, filled in by a user, with Compose. It does not run the stack,
// because its images cannot be pulled everywhere.
func TestIgluStack(t *testing.T) {
	template, err := os.ReadFile(filepath.Join(root, igluTemplate))
	if err != nil {
		t.Fatal(err)
	}
	if config, err := igluConfig(t, string(template)); err == nil || !strings.Contains(err.Error(), "env.example is the template") {
		t.Errorf("Compose accepts the template without values: %v\n%s", err, config)
	}

	// Each variable of the template gets a different value, which must be used.
	variable := regexp.MustCompile(`(?m)^([A-Z_]+)=.*$`)
	config, err := igluConfig(t, variable.ReplaceAllString(string(template), "$1=value-of-$1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range variable.FindAllStringSubmatch(string(template), -1) {
		if !strings.Contains(config, "value-of-"+match[1]) {
			t.Errorf("%s of %s is not used", match[1], igluTemplate)
		}
	}
	wantOnNetwork(t, config, "nw", []string{"builder", "cache", "postgres", "redis"})
	wantOnNetwork(t, config, "jobs", []string{"cache"})
	for _, text := range []string{"name: iglu-nw", "name: iglu-jobs", "IGLU_JOB_NETWORK: iglu-jobs", "127.0.0.1", "/var/run/docker.sock", "no-new-privileges"} {
		if !strings.Contains(config, text) {
			t.Errorf("%q is not in\n%s", text, config)
		}
	}
	for _, service := range []string{"cache", "postgres", "redis"} {
		if strings.Contains(services(config)[service], "ports:") {
			t.Errorf("a port of %s is published", service)
		}
	}
}

// TestAgentOfStack checks the stack together with the agent. Only the scheduler's builders may reach the agent.
// TestScheduler in test/integration/protocol runs such a builder with an agent.
func TestAgentOfStack(t *testing.T) {
	config, err := igluConfig(t, "POSTGRES_PASSWORD=p\nREDIS_PASSWORD=r\nDOCKER_GID=1\n", "--file", igluAgent)
	if err != nil {
		t.Fatal(err)
	}
	wantOnNetwork(t, config, "nw", []string{"agent", "builder", "cache", "postgres", "redis"})
	wantOnNetwork(t, config, "jobs", []string{"cache"})
	agent := services(config)["agent"]
	for _, text := range []string{"IGLU_AGENT_KEYS: /keys", "examples/iglu-stack/keys/agent", "/var/run/docker.sock", "stop_grace_period: 6h", "no-new-privileges", "read_only: true"} {
		if !strings.Contains(agent, text) {
			t.Errorf("%q is not in\n%s", text, agent)
		}
	}
	if strings.Contains(agent, "ports:") {
		t.Error("a port of the agent is published")
	}
}

// igluConfig returns Compose's configuration of the stack, with an environment file and more flags of Compose.
func igluConfig(t *testing.T, environment string, flags ...string) (string, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(name, []byte(environment), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`(?m)^[A-Z_]+`).FindAllString(environment, -1) {
		t.Setenv(match, "") // so that the test restores it
		os.Unsetenv(match)  // the developer's value would override the file's
	}
	s := &stack{t: t}
	s.command = append(append(s.findCompose(), "--env-file", name, "--file", igluStack), flags...)
	return s.compose("config")
}

// services returns the text of each service in the output of Compose.
func services(config string) map[string]string {
	_, all, _ := strings.Cut(config, "\nservices:\n")
	all = regexp.MustCompile(`(?m)^\S`).Split(all, 2)[0]
	found := make(map[string]string)
	head := regexp.MustCompile(`(?m)^  ([a-z]+):\n`)
	places := head.FindAllStringSubmatchIndex(all, -1)
	for i, place := range places {
		end := len(all)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		found[all[place[2]:place[3]]] = all[place[1]:end]
	}
	return found
}

// wantOnNetwork checks which services of a stack are on a network.
func wantOnNetwork(t *testing.T, config, network string, want []string) {
	t.Helper()
	var got []string
	on := regexp.MustCompile(`(?m)^    networks:\n(?:      .*\n)*      ` + network + `:`)
	for name, text := range services(config) {
		if on.MatchString(text) {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("on the network %s (-want +got):\n%s", network, diff)
	}
}
