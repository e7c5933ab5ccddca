package orchestrator

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestShift has jobs and upkeep want the engine at once.
func TestShift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShift()
		never := func() { t.Error("a job waited that need not") }
		end, err := s.job(t.Context(), never)
		if err != nil {
			t.Fatal(err)
		}
		s.upkeep(t.Context(), func(context.Context) { t.Error("there was upkeep during a job") })

		// Who gives up waiting is let go, with the reason.
		waits := 0
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Hour, func() { cancel(gone) })
		if _, err := s.job(ctx, func() { waits++ }); err != gone || waits != 1 {
			t.Errorf("%v, said %d times that it waits", err, waits)
		}
		time.AfterFunc(longWait/2, end)
		end, err = s.job(t.Context(), never)
		if err != nil {
			t.Fatal(err)
		}
		end()

		// A job ends upkeep, and begins when that has ended.
		var interrupted, ended bool
		go s.upkeep(t.Context(), func(ctx context.Context) {
			<-ctx.Done()
			interrupted = true
			time.Sleep(longWait / 2)
			ended = true
		})
		synctest.Wait()
		end, err = s.job(t.Context(), never)
		if err != nil || !interrupted || !ended {
			t.Errorf("%v, interrupted %v, ended %v", err, interrupted, ended)
		}
		end()
		again := false
		s.upkeep(t.Context(), func(context.Context) { again = true })
		if !again {
			t.Error("there is no upkeep any more")
		}
	})
}
