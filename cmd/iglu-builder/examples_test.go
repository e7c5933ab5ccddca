package main

import (
	"bytes"
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
