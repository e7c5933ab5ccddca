package buildclient

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
)

// showsColors reports whether the output has the log's colours.
func (o Options) showsColors() bool { return !o.JSON && !o.NoColor && o.hasScreen() }

// hasScreen reports whether the output is a terminal that can do more than scroll.
func (o Options) hasScreen() bool { return isTerminal(o.Stdout) && !isDumb() }

// isDumb reports whether the user's terminal can only scroll.
func isDumb() bool { return os.Getenv("TERM") == "dumb" }

// withColors returns a job that requests colours, unless it has the property "colors" already. An invalid
// job is returned unchanged: the builder reports what is wrong with it.
func withColors(job []byte) []byte {
	var properties map[string]json.RawMessage
	if json.Unmarshal(job, &properties) != nil || len(properties) == 0 {
		return job
	}
	if _, says := properties["colors"]; says {
		return job
	}
	end := bytes.LastIndexByte(job, '}')
	return slices.Concat(job[:end], []byte(`,"colors":true`), job[end:])
}
