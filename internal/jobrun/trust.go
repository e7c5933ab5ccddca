package jobrun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/nixconf"
	"iglu.sh/builder/schemas"
)

// What a job's daemon takes from elsewhere is in its store when the job has ended. Whom the request
// and the operator trust says which store a job has (package orchestrator). Whom it trusts beside
// them comes out in the container: the private cache that it pushes to, and what its flake names
// (nixConfig) where the operator accepts that. So a store carries a file that says whom jobs in it
// have trusted so, and is for jobs alone that trust them all.

// trustFile is that file, in storeRoot.
const trustFile = ".iglu-trust"

// A trust is whom a job trusts.
type trust struct {
	substituters []string
	keys         []string // NAME:BASE64
}

// newTrust returns a trust in those of some substituters and keys that have the form of ones.
func newTrust(substituters, keys []string) trust {
	return trust{formed(substituters, schemas.CheckSubstituter), formed(keys, schemas.CheckPublicKey)}
}

// formed returns some words in order, each once, without those that check finds something wrong with.
func formed(words []string, check func(string) string) []string {
	words = slices.DeleteFunc(slices.Clone(words), func(word string) bool { return check(word) != "" })
	return slices.Compact(slices.Sorted(slices.Values(words)))
}

// and returns a trust in all that either trusts.
func (t trust) and(other trust) trust {
	return newTrust(slices.Concat(t.substituters, other.substituters), slices.Concat(t.keys, other.keys))
}

// settings returns it as the settings of Nix.
func (t trust) settings() string {
	var lines nixconf.Lines
	lines.SetList("extra-substituters", t.substituters)
	lines.SetList("extra-trusted-public-keys", t.keys)
	return lines.String()
}

// words returns what of it decides with which jobs a store is shared: keys, and substituters that
// may be asked to do without signatures, as by "?trusted=1".
func (t trust) words() []string {
	unsigned := slices.DeleteFunc(slices.Clone(t.substituters), func(text string) bool {
		u, err := url.Parse(text)
		return err == nil && u.RawQuery == ""
	})
	return slices.Concat(t.keys, unsigned)
}

// agree returns an errUnusable if the store holds what was trusted by more than a job trusts, and
// notes whom the job does.
func (s store) agree(trusted []string) error {
	name := filepath.Join(s.root, trustFile)
	var before []string
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &before)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errUnusable{fmt.Sprintf("it is not known whom jobs in it have trusted: %v", err)}
	}
	for _, word := range before {
		if !slices.Contains(trusted, word) {
			return errUnusable{"earlier jobs in it have trusted " + word + ", and this one does not"}
		}
	}
	if slices.Equal(before, trusted) {
		return nil
	}
	if text, err = json.Marshal(trusted); err != nil {
		panic("jobrun: texts always encode: " + err.Error())
	}
	if err := replaceFile(name, text, 0o644); err != nil {
		return err
	}
	// Before anything of theirs: it must not outlive this file when the power goes.
	return errors.Join(syncFolder(name), syncFolder(s.root))
}

const (
	flakeFile = sourceDir + "/flake.nix"
	// flakeTimeout bounds the reading of a flake's settings, which are constants as a rule, and
	// maxFlakeConfig what they print, in bytes.
	flakeTimeout   = 30 * time.Second
	maxFlakeConfig = 64 << 10
)

// nobody is who reads a flake's settings: not the job's user, whose tokens lie in files. Nothing of
// the container is his.
var nobody = &user{uid: 65534, gid: 65534, name: "nobody", home: "/var/empty"}

// trustOfFlake returns whom the flake in the source trusts, and says so. A source without a flake
// trusts nobody.
func trustOfFlake(r runner) trust {
	if _, err := os.Stat(flakeFile); errors.Is(err, fs.ErrNotExist) {
		return trust{}
	}
	// Nix wants it to be constants; it is evaluated as one that may read nothing else and fetch
	// nothing.
	r.user = nobody
	r = r.with("HOME="+nobody.home, "USER="+nobody.name, "NIX_REMOTE=", "NIX_CONFIG=extra-experimental-features = nix-command")
	r.environ = without(r.environ, cacheHome, "NIX_PATH")
	watch := time.AfterFunc(flakeTimeout, func() { r.children.signalAll(unix.SIGKILL) })
	defer watch.Stop()
	text, code := r.output("nix", "eval", "--store", "dummy://", "--impure", "--option", "restrict-eval", "true", "-I", "flake="+flakeFile,
		"--json", "--expr", "(import <flake>).nixConfig or {}")
	t, err := parseFlakeConfig(text)
	if code != 0 || len(text) > maxFlakeConfig || err != nil {
		say("warning: the flake's own settings cannot be read, and do not count")
		return trust{}
	}
	if len(t.substituters)+len(t.keys) > 0 {
		say("the flake's own settings count: substituters %s, keys %s", orNone(t.substituters), orNone(t.keys))
	}
	return t
}

// parseFlakeConfig reads a flake's nixConfig as JSON: the settings of Nix by their names.
func parseFlakeConfig(text string) (trust, error) {
	var settings map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &settings); err != nil {
		return trust{}, err
	}
	var substituters, keys []string
	for name, value := range settings {
		switch (nixconf.Setting{Name: name}).Base() {
		case "substituters", "trusted-substituters":
			substituters = append(substituters, wordsOf(value)...)
		case "trusted-public-keys":
			keys = append(keys, wordsOf(value)...)
		}
	}
	return newTrust(substituters, keys), nil
}

// wordsOf returns the words of a setting, which is a string or a list of strings.
func wordsOf(value json.RawMessage) []string {
	var words []string
	if json.Unmarshal(value, &words) == nil {
		return words
	}
	var text string
	if json.Unmarshal(value, &text) != nil {
		return nil
	}
	return strings.Fields(text)
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "(none)"
	}
	return strings.Join(words, " ")
}
