package docker

import (
	"context"
	"os"
	"time"

	"iglu.sh/builder/internal/lazyregexp"
)

const (
	// defaultStopTimeout is how long engines wait before they kill a container that was asked to
	// end, if it does not say how long itself: docker stop, --time.
	defaultStopTimeout = 10 * time.Second
	// askTimeout bounds the question for it.
	askTimeout = time.Second
)

// mounts is where the kernel lists what is mounted: proc(5).
const mounts = "/proc/self/mountinfo"

// selfForm finds the ID of the container in whose file system a process is: engines mount files of
// theirs there, as /etc/hostname, from a folder of the container's ID.
var selfForm = lazyregexp.New(`/(?:containers|overlay-containers)/([0-9a-f]{64})/\S* /etc/(?:hostname|hosts|resolv\.conf) `)

// StopTimeout returns after how long the engine kills the container that this program runs in, once
// that was asked to end; 0 if it is in none. Of a container that the engine does not know, it is the
// engines' default.
func (d *Engine) StopTimeout() time.Duration {
	text, _ := os.ReadFile(mounts)
	id := containerIn(string(text))
	if id == "" {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	found, err := d.client.ContainerInspect(ctx, id)
	if err != nil || found.Config == nil || found.Config.StopTimeout == nil {
		return defaultStopTimeout
	}
	return max(0, time.Duration(*found.Config.StopTimeout)*time.Second) // less is never
}

// containerIn returns the ID of a container from the list of its mounts, or "".
func containerIn(mountinfo string) string {
	if m := selfForm().FindStringSubmatch(mountinfo); m != nil {
		return m[1]
	}
	return ""
}
