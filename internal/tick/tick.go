// Package tick calls a function at regular intervals.
package tick

import "time"

// Every calls do once in each interval, in a goroutine of its own, until stop is called. When stop returns, do is not
// running and will not be called again.
func Every(interval time.Duration, do func()) (stop func()) {
	ticker := time.NewTicker(interval)
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ticker.C:
				do()
			case <-ended:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(ended)
		<-done
	}
}
