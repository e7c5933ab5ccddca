package buildclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// A client that waits for a free slot tries again after minRetry, then after twice as long, and so on up to
// maxRetry. Each time is randomised, so that clients do not all try at the same moment.
const (
	minRetry = 500 * time.Millisecond
	maxRetry = 5 * time.Second
)

// untilTaken calls send. With the option Wait, it calls send again while the builder has no free slot.
func (o Options) untilTaken(ctx context.Context, send func() error) error {
	for pause := minRetry; ; pause = min(2*pause, maxRetry) {
		err := send()
		if !errors.Is(err, errBusy) {
			return err
		}
		if !o.Wait {
			return fmt.Errorf("%w\nhint: with --wait the client tries again until the builder has room for the job", err)
		}
		if pause == minRetry {
			fmt.Fprintln(o.Stderr, "iglu-builder: the builder has no free slot for the job; waiting for one")
		}
		select {
		case <-time.After(pause*3/4 + rand.N(pause/2)):
		case <-ctx.Done():
			return notSent
		}
	}
}
