package jobrun

import (
	"os"
	"strings"
)

// memoryEvents are the files in which the kernel counts what became of a container for its
// memory, with cgroups of version 2 and of version 1: Documentation/admin-guide/cgroup-v2.rst
// and cgroup-v1/memory.rst of Linux.
var memoryEvents = []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"}

// ranOutOfMemory reports whether a process of the container was killed for want of memory,
// as far as the container can see. Not every engine tells.
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
