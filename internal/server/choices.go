package server

import (
	"iglu.sh/builder/images"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/orchestrator/stores"
)

// Choices are the values of the settings that have but a few, by their flags.
var Choices = map[string][]string{
	"pull":                {string(images.PullMissing), string(images.PullAlways), string(images.PullNever)},
	"store":               {string(stores.Repository), string(stores.Shared), string(stores.Ephemeral)},
	"job-user":            {string(orchestrator.UserNix), string(orchestrator.UserRoot)},
	"nix-sandbox":         {string(docker.SandboxAuto), string(docker.SandboxOn), string(docker.SandboxOff)},
	"nix-sandbox-unsafe":  {"yes", "no"},
	"accept-flake-config": {"yes", "no"},
	"push-upstream":       {"yes", "no"},
	"log-format":          {"text", "json"},
	"log-level":           {"debug", "info", "warn", "error"},
}

// Files are the settings that name a file or a folder.
var Files = []string{"token-file", "tls-cert", "tls-key", "nix-conf-file", "state-dir"}
