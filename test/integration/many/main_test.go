//go:build integration

package many

import (
	"os"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

func TestMain(m *testing.M) { os.Exit(fixture.Main(m)) }
