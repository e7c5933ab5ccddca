//go:build long

package orchestrator

import "iglu.sh/builder/test/kit/fakeengine"

var recordings = []string{fakeengine.Docker, fakeengine.Podman}
