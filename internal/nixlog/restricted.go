package nixlog

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
)

// ignored is what Nix says of a setting that its daemon takes from trusted users alone:
// ClientSettings::apply in daemon.cc of its sources.
var ignored = lazyregexp.New(`ignoring the client-specified setting '([a-z-]+)', because it is a restricted setting|ignoring untrusted substituter '`)

// untrusted is what Nix says of a setting that a flake gives (nixConfig) and that nobody has
// accepted: ConfigFile::apply in libflake/config.cc.
var untrusted = lazyregexp.New(`ignoring untrusted flake configuration setting '([a-z-]+)'`)

// maxRestricted is how many names of settings are kept. Nix has not so many.
const maxRestricted = 100

// noteRestricted notes what a line says of a setting that was ignored.
func (l *Log) noteRestricted(line string) {
	if !strings.Contains(line, "ignoring ") {
		return
	}
	if match := untrusted().FindStringSubmatch(line); match != nil {
		note(&l.untrusted, match[1])
	}
	if match := ignored().FindStringSubmatch(line); match != nil {
		note(&l.restricted, cmp.Or(match[1], "substituters"))
	}
}

func note(names *map[string]bool, name string) {
	if *names == nil {
		*names = make(map[string]bool)
	}
	if len(*names) < maxRestricted {
		(*names)[name] = true
	}
}

// Untrusted returns the names of Nix's settings that a flake has given, and that Nix has ignored
// because nobody has accepted them.
func (l *Log) Untrusted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.untrusted))
}

// Restricted returns the names of Nix's settings that the command has given, and that the daemon
// has ignored because the command's user is not trusted.
func (l *Log) Restricted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.restricted))
}
