package jobrun

import (
	"io"
	"os"
	"sync/atomic"
	"time"

	"iglu.sh/builder/internal/jobenv"
)

// watchLifeline returns when the builder is lost: the lifeline was closed, or no byte has arrived for
// the time of silence, and up to half of that longer. It counts in steps, so that a container that was
// frozen for a while can read the bytes that have arrived meanwhile.
func watchLifeline(lifeline io.Reader, silence time.Duration) {
	beats := make(chan struct{})
	go func() { // ends with the lifeline, or with the process
		defer close(beats)
		for buf := make([]byte, 64); ; {
			if _, err := lifeline.Read(buf); err != nil {
				return
			}
			beats <- struct{}{}
		}
	}()
	const steps = 2
	ticker := time.NewTicker(silence / steps)
	defer ticker.Stop()
	for silent := 0; silent <= steps; {
		select {
		case _, alive := <-beats:
			if !alive {
				return
			}
			silent = 0
		case <-ticker.C:
			silent++
		}
	}
}

// A job that has lost its builder ends within jobenv.Outlives. Otherwise this does not compile.
const _ = uint64(jobenv.Outlives - jobenv.Silence*3/2 - killDelay - time.Second)

// lifelineLost is true if the job ends because its builder is lost.
var lifelineLost atomic.Bool

// endWithBuilder ends the job when its builder is lost: by SIGTERM, and later by exiting.
func endWithBuilder(children *children) {
	watchLifeline(os.Stdin, jobenv.Silence)
	lifelineLost.Store(true)
	// Writing to the log may block for ever, because nobody reads it. So this must not wait for a write.
	time.AfterFunc(killDelay+time.Second, func() {
		os.Exit(jobenv.ExitLifelineLost)
	})
	children.terminate()
	say("the job ends, because it has lost its builder")
}
