//go:build !long

package orchestrator

import "iglu.sh/builder/test/kit/fakeengine"

// recordings are the engines whose every call goes wrong. In the long suite Podman is another: its
// calls take as long again, and fail in much the same way.
var recordings = []string{fakeengine.Docker}
