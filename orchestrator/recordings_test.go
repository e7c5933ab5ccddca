//go:build !long

package orchestrator

import "iglu.sh/builder/test/kit/fakeengine"

// recordings are the engines with which the TestFaults run. The long suite adds Podman: it doubles the time, and its
// calls fail in much the same way.
var recordings = []string{fakeengine.Docker}
