package jobrun

import "slices"

// memoryEvents are the files in which the kernel counts the processes of a container that it killed
// because memory ran out, with cgroups of version 2 and of version 1:
// Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.
var memoryEvents = []string{cgroups + "/memory.events", cgroups + "/memory/memory.oom_control"}

// ranOutOfMemory reports whether a process of the container was killed because memory ran out. It returns
// false if the container cannot see that.
func ranOutOfMemory() bool { return slices.ContainsFunc(memoryEvents, countsKill) }

func countsKill(events string) bool { return numberIn(events, "oom_kill ") > 0 }
