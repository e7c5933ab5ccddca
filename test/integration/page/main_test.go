//go:build integration

package page

import (
	"os"
	"testing"

	"iglu.sh/builder/test/kit/browser"
	"iglu.sh/builder/test/kit/fixture"
)

func TestMain(m *testing.M) { os.Exit(fixture.Main(m, browser.Close)) }
