package buildclient

import (
	"testing"

	"iglu.sh/builder/schemas"
)

func TestSentences(t *testing.T) {
	for want, r := range map[string]schemas.Response{
		"Exit code 1. hello failed: two. See its log.": {Error: "Exit code 1", Msg: "hello failed: two. See its log."},
		"It is gone. Send it again.":                   {Error: "It is gone.", Msg: "Send it again."},
		"It is gone":                                   {Error: "It is gone"},
		"Start Building":                               {Msg: "Start Building"},
		"a^Gb":                                         {Error: "a\ab"},
	} {
		if got := sentences(&r); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
