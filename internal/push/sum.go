package push

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// size formats a number of bytes.
func size(bytes int64) string {
	return units.CustomSize("%.4g %s", float64(bytes), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"})
}

// rate formats bytes per second.
func rate(bytes int64, took time.Duration) string {
	return size(int64(float64(bytes)/max(took, time.Microsecond).Seconds())) + "/s"
}

// paths formats a number of paths.
func paths(n int) string {
	if n == 1 {
		return "1 path"
	}
	return fmt.Sprintf("%d paths", n)
}

// sum writes the summary of a push to the log, and returns a text that says what could not be pushed, or "".
// after is the time since the build's end.
func (t *tally) sum(failed []*entry, err error, after time.Duration) (unpushed string) {
	t.mu.Lock()
	c := t.counts
	t.mu.Unlock()
	t.say("push: %s pushed (%s, %s compressed), %d already there, %d skipped as upstream's; %s after the build",
		paths(c.pushed), size(c.narBytes), size(c.fileBytes), c.there, c.upstream, after.Round(time.Millisecond))
	if c == (counts{}) && err == nil && len(failed) == 0 {
		t.say("push: this command yielded nothing to push: nothing that was built for it is in the store")
	}
	if err != nil {
		unpushed = fmt.Sprintf("its results could not be pushed: %v", err)
	} else if len(failed) > 0 {
		unpushed = fmt.Sprintf("%d of %s could not be pushed: %s",
			len(failed), paths(len(failed)+c.pushed+c.there), strings.Join(reasons(failed), "; "))
	}
	if unpushed != "" {
		t.say("push: NOT COMPLETE: %s", unpushed)
	}
	return unpushed
}

// maxReasons is how many of the paths that could not be pushed are listed.
const maxReasons = 3

// reasons lists some of the paths that could not be pushed, with their errors. It omits paths that were not
// pushed only because of another path.
func reasons(failed []*entry) []string {
	var reasons []string
	for _, e := range failed {
		if !errors.Is(e.err, errReference) && !errors.Is(e.err, errGaveUp) {
			reasons = append(reasons, fmt.Sprintf("%s: %v", e.path.Name(), e.err))
		}
	}
	slices.Sort(reasons)
	if more := len(reasons) - maxReasons; more > 0 {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more like these", more))
	}
	return reasons
}
