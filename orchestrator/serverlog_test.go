package orchestrator

import (
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
)

// The server's log has a line for a job's start, which describes the job, and one for its end, which has its result.
func TestServerLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "docker-20.10.24", nil)
		request := requestOf("fail two")
		request.Git.NoClone, request.Git.Repository, request.Git.Branch = false, "https://user:hunter2hunter2@git.example.com/app", "main"
		request.Git.GitKey = "hunter2hunter2"
		j := f.newJob()
		j.client = "192.0.2.7:1234"
		f.begin(j, request)
		j.finish()
		f.b.background.Wait()
		f.do("count 0")
		f.do("memory 1")
		log := f.log.String()
		for _, want := range []string{
			`msg="job started" job=JOB repository=https://git.example.com/app branch=main command="fail two" client=192.0.2.7:1234\n`,
			`msg="job ended" job=JOB result=failure end=exited exitCode=1 seconds=0.1 reason="hello-2.12 failed: two"\n`,
			`msg="job started" job=JOB command="count 0"\n`,
			`msg="job ended" job=JOB result=success end=exited exitCode=0 seconds=[0-9.]+\n`,
			`msg="job ended" job=JOB result=failure end=out-of-memory exitCode=1 seconds=[0-9.]+ reason="out of memory" err="The job ran out of memory`,
		} {
			pattern := strings.ReplaceAll(strings.ReplaceAll(want, "JOB", "[a-z2-7]{26}"), "seconds=0.1 ", "seconds=[0-9.]+ ")
			if !regexp.MustCompile(pattern).MatchString(log) {
				t.Errorf("the log lacks %s:\n%s", want, log)
			}
		}
		if r := f.records.all[0]; r.Client != "192.0.2.7:1234" {
			t.Errorf("the record is of the client %q", r.Client)
		}
	})
}
