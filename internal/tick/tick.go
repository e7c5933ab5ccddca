// Package tick does something again and again.
package tick

import "time"

// Every calls do at each interval, from a goroutine of its own, until the function that it
// returns is called. When that returns, do has returned for the last time.
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
