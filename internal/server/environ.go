package server

import (
	"log/slog"
	"slices"
	"strings"

	"iglu.sh/builder/schemas"
)

// WarnUnknown logs a warning for each variable of environ that begins with IGLU_ and is neither a setting of
// the server nor one of others, the variables of other commands. The warning does not contain the variable's
// value, which may be a secret. An empty variable counts as not set, and Kubernetes sets those of isOfService.
func WarnUnknown(environ, others []string, log *slog.Logger) {
	known := append(variables(), others...)
	environ = slices.Sorted(slices.Values(environ))
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || value == "" || slices.Contains(known, name) || isOfService(name, environ) {
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

// isOfService reports whether a variable describes a service of Kubernetes. A pod has some for each service of its
// namespace, such as IGLU_BUILDER_SERVICE_HOST and IGLU_BUILDER_PORT_3000_TCP for iglu-builder.
func isOfService(name string, environ []string) bool {
	for _, end := range []string{"_SERVICE_HOST", "_SERVICE_PORT", "_PORT"} {
		service, rest, ok := strings.Cut(name, end)
		isWhole := rest == "" || rest[0] == '_'
		hasHost := func(variable string) bool { return strings.HasPrefix(variable, service+"_SERVICE_HOST=") }
		if ok && isWhole && slices.ContainsFunc(environ, hasHost) {
			return true
		}
	}
	return false
}

// variables returns the names of the environment variables of all settings.
func variables() (names []string) {
	for _, setting := range Table() {
		names = append(names, setting.Env)
	}
	return names
}
