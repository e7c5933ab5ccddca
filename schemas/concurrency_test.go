package schemas

import (
	"os"
	"os/exec"
	"sync"
	"testing"
)

// firstUse is the environment variable that marks the second process of this test.
const firstUse = "SCHEMAS_TEST_FIRST_USE"

// jsonschema builds parts of a schema in its first validation, so several at once would be a data race. This
// test starts a second process, in which they are the first validations; with -race it fails if there is one.
func TestConcurrentFirstUse(t *testing.T) {
	if os.Getenv(firstUse) != "" {
		parseAtOnce(t)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestConcurrentFirstUse$")
	child.Env = append(os.Environ(), firstUse+"=1")
	if output, err := child.CombinedOutput(); err != nil {
		t.Errorf("in a process of its own: %v\n%s", err, output)
	}
}

func parseAtOnce(t *testing.T) {
	const goroutines = 32
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for range goroutines {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			for _, job := range []string{validJob, stackJob} {
				if _, _, err := ParseRequest([]byte(job), allowedCommands); err != nil {
					t.Errorf("ParseRequest: %v", err)
				}
			}
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}
