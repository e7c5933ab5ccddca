package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/schemas"
)

const somePublicKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

// TestExampleJobs checks that the examples' job files are jobs.
func TestExampleJobs(t *testing.T) {
	var flags buildclient.JobFlags
	flags.Register(pflag.NewFlagSet("", pflag.ContinueOnError))
	for name, want := range map[string]schemas.Format{
		"hello/job.json":                 schemas.Document,
		"hello/job-flake-reference.json": schemas.Document,
		"hello/job-push.json":            schemas.Document,
		"iglu-stack/job.json":            schemas.Stack,
	} {
		text, err := readJob([]string{"../../examples/" + name}, &flags, nil)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("PUBLIC_KEY"), []byte(somePublicKey)) // the reader fills it in
		if _, form, err := schemas.ParseRequest(text, []string{"nix"}); err != nil || form != want {
			t.Errorf("%s: form %d, %v", name, form, err)
		}
	}
}

// TestStopTimeouts checks that each server of an example knows how long it has to stop. An engine does not know that of a
// service of Docker Swarm or docker-compose 1: their stop_grace_period is part of the request to stop.
func TestStopTimeouts(t *testing.T) {
	serviceForm := regexp.MustCompile(`(?m)^  [a-z]+:\n(?:(?:    .*| *)\n)+`)
	graceForm := regexp.MustCompile(`(?m)^    stop_grace_period: (\S+)$`)
	servers := 0
	for _, name := range []string{"docker-compose.yml", "examples/swarm/stack.yml", "examples/swarm/each-node.yml"} {
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, service := range serviceForm.FindAllString(string(text), -1) {
			grace := graceForm.FindStringSubmatch(service)
			if grace == nil || strings.Contains(service, "command: agent") {
				continue
			}
			servers++
			if !regexp.MustCompile(`IGLU_STOP_TIMEOUT(=|: )` + grace[1] + `\n`).MatchString(service) {
				t.Errorf("%s: IGLU_STOP_TIMEOUT is not %s in\n%s", name, grace[1], service)
			}
		}
	}
	if servers != 3 {
		t.Errorf("%d servers", servers)
	}
}
