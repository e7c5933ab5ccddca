package nixlog

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
)

// ignored matches Nix's warning about a setting that its daemon accepts from trusted users only:
// ClientSettings::apply in daemon.cc of its sources.
var ignored = lazyregexp.New(`ignoring the client-specified setting '([a-z-]+)', because it is a restricted setting|ignoring untrusted substituter '`)

// untrusted matches Nix's warning about a setting in a flake's nixConfig that was not accepted:
// ConfigFile::apply in libflake/config.cc.
var untrusted = lazyregexp.New(`ignoring untrusted flake configuration setting '([a-z-]+)'`)

// maxRestricted is how many names of settings are kept. It is more than Nix has.
const maxRestricted = 100

// noteRestricted notes the setting if a line says that one was ignored.
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

// Untrusted returns the names of the settings in a flake's nixConfig that Nix has ignored because they
// were not accepted.
func (l *Log) Untrusted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.untrusted))
}

// Restricted returns the names of the command's settings that the daemon has ignored because the command's
// user is not trusted.
func (l *Log) Restricted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.restricted))
}
