package server

import (
	"log/slog"
	"slices"
	"strings"

	"iglu.sh/builder/schemas"
)

// WarnUnknown logs a warning for each variable of environ that begins with IGLU_ and is neither a setting of
// the server nor one of others, the variables of other commands. The warning does not contain the variable's
// value, which may be a secret. An empty variable counts as not set.
func WarnUnknown(environ, others []string, log *slog.Logger) {
	known := append(variables(), others...)
	environ = slices.Sorted(slices.Values(environ))
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || value == "" || slices.Contains(known, name) {
			continue
		}
		const unknown = "unknown environment variable: it has no effect"
		if nearest := schemas.Nearest(name, known); nearest != "" {
			log.Warn(unknown+"; did you mean "+nearest+"?", "variable", name)
		} else {
			log.Warn(unknown, "variable", name)
		}
	}
}

// variables returns the names of the environment variables of all settings.
func variables() (names []string) {
	for _, setting := range Table() {
		names = append(names, setting.Env)
	}
	return names
}
