package nixlog

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// ignored is what Nix says of a setting that its daemon takes from trusted users alone:
// ClientSettings::apply in daemon.cc of its sources.
var ignored = regexp.MustCompile(`ignoring the client-specified setting '([a-z-]+)', because it is a restricted setting|ignoring untrusted substituter '`)

// maxRestricted is how many names of settings are kept. Nix has not so many.
const maxRestricted = 100

// noteRestricted notes what a line says of a setting that was ignored.
func (l *Log) noteRestricted(line string) {
	if !strings.Contains(line, "ignoring ") {
		return
	}
	match := ignored.FindStringSubmatch(line)
	if match == nil || len(l.restricted) == maxRestricted {
		return
	}
	if l.restricted == nil {
		l.restricted = make(map[string]bool)
	}
	l.restricted[cmp.Or(match[1], "substituters")] = true
}

// Restricted returns the names of Nix's settings that the command has given, and that the daemon
// has ignored because the command's user is not trusted.
func (l *Log) Restricted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.restricted))
}
