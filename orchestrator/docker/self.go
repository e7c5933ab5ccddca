package docker

import (
	"context"
	"os"
	"time"

	"iglu.sh/builder/internal/lazyregexp"
)

const (
	// defaultStopTimeout is how long engines wait by default before they kill a container that was asked to
	// end: docker stop, --time.
	defaultStopTimeout = 10 * time.Second
	// askTimeout is how long the engine may take to answer StopTimeout.
	askTimeout = time.Second
)

// mounts is the kernel's list of mounts: proc(5).
const mounts = "/proc/self/mountinfo"

// selfForm finds the ID of the container in which a process runs. Engines mount files such as /etc/hostname into a
// container, from a folder with the container's ID.
var selfForm = lazyregexp.New(`/(?:containers|overlay-containers)/([0-9a-f]{64})/\S* /etc/(?:hostname|hosts|resolv\.conf) `)

// StopTimeout returns how long the engine waits before it kills this program's own container, after it has asked it to
// end. It returns 0 if the program does not run in a container, and the engines' default if the engine does not know the
// container.
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
	return max(0, time.Duration(*found.Config.StopTimeout)*time.Second) // negative: the engine never kills it
}

// containerIn returns the ID of a container from the list of its mounts, or "".
func containerIn(mountinfo string) string {
	if m := selfForm().FindStringSubmatch(mountinfo); m != nil {
		return m[1]
	}
	return ""
}
