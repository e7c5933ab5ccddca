package jobrun

import (
	"os"
	"strings"
)

// memoryEvents are the files in which the kernel counts the processes of a container that it killed
// because memory ran out, with cgroups of version 2 and of version 1:
// Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.
var memoryEvents = []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"}

// ranOutOfMemory reports whether a process of the container was killed because memory ran out. It returns
// false if the container cannot see that.
func ranOutOfMemory() bool {
	for _, name := range memoryEvents {
		text, err := os.ReadFile(name)
		if err == nil && countsKill(string(text)) {
			return true
		}
	}
	return false
}

func countsKill(events string) bool {
	for line := range strings.Lines(events) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n) != "0"
		}
	}
	return false
}
