//go:build integration && long

package protocol

import (
	"encoding/json"
	"strings"
	"testing"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestStackRefusals sends jobs in the stack's format with empty strings in required fields.
func TestStackRefusals(t *testing.T) {
	change := func(object, name string, value any) string {
		row := fixture.StackRow(fixture.Command("nix --version"))
		row[object].(map[string]any)[name] = value
		return fixture.JSONOf(t, row)
	}
	for job, want := range map[string]string{
		change("git_config", "requiresauth", true): "git_config.gitkey: is required when requiresauth is true",
		change("git_config", "noclone", false):     "git_config.repository: is required when noclone is false",
		change("cachix_config", "push", true):      "cachix_config.target: is required when push is true",
		change("build_options", "maxjobs", 0):      "build_options.maxjobs: must be 1 or more",
		change("build_options", "cores", nil):      "build_options.cores: must be a number",
		change("build_options", "command", ""):     "build_options.command: its first word must be one of: ",
	} {
		c := fixture.ConnectIn(t, schemas.Stack, fixture.Env.Server)
		c.Send(job)
		got := c.Finish()
		var message schemas.Response
		if len(got.Messages) != 1 || json.Unmarshal([]byte(got.Messages[0]), &message) != nil ||
			!strings.HasPrefix(message.Msg, want) || got.CloseCode != 1007 {
			t.Errorf("want %q, got %v, close code %d", want, got.Messages, got.CloseCode)
		}
	}
}
