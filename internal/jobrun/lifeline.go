package jobrun

import (
	"io"
	"os"
	"sync/atomic"
	"time"

	"iglu.sh/builder/internal/jobenv"
)

// watchLifeline returns when nobody waits for the job any more: the lifeline has ended, or
// nothing has come through it for the time of silence, and up to half of that longer. It
// counts in steps, so that a container that was frozen for a while gets to read what has
// come meanwhile.
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

// A job whose builder is gone ends within jobenv.Outlives: this does not compile if it does not.
const _ = uint64(jobenv.Outlives - jobenv.Silence*3/2 - killDelay - time.Second)

// lifelineLost says that the job ends because nobody waits for it.
var lifelineLost atomic.Bool

// endWithBuilder ends the job when its builder is gone: gently, and then in any case,
// whatever it is at.
func endWithBuilder(children *children) {
	watchLifeline(os.Stdin, jobenv.Silence)
	lifelineLost.Store(true)
	// Nobody may read what the job prints any more: nothing here waits for that.
	time.AfterFunc(killDelay+time.Second, func() {
		os.Exit(jobenv.ExitLifelineLost)
	})
	children.terminate()
	say("the builder is gone, and so the job ends")
}
