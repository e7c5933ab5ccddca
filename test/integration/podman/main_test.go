//go:build integration

package podman

import (
	"os"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

func TestMain(m *testing.M) { os.Exit(fixture.MainOnPodman(m)) }
