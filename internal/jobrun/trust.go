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

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixconf"
	"iglu.sh/builder/schemas"
)

// What a job's daemon downloads from caches remains in the store. So only jobs that trust the same caches
// and keys may share a store. The package orchestrator chooses the store by what the request and the operator
// trust. What else a job trusts is known only in the container: the private cache to which it pushes, and
// the nixConfig of its flake, if the operator accepts that. So a store has a file that lists what earlier
// jobs have trusted in that way, and only jobs that trust all of it may use the store.

// trustFile is that file, in storeRoot.
const trustFile = ".iglu-trust"

// A trust is a list of the caches and keys that a job trusts.
type trust struct {
	substituters []string
	keys         []string // NAME:BASE64
}

// newTrust returns a trust in those of the substituters and keys that are valid.
func newTrust(substituters, keys []string) trust {
	return trust{valid(substituters, schemas.CheckSubstituter), valid(keys, schemas.CheckPublicKey)}
}

// valid returns the words that check accepts, sorted and without duplicates.
func valid(words []string, check func(string) string) []string {
	words = slices.DeleteFunc(slices.Clone(words), func(word string) bool { return check(word) != "" })
	return slices.Compact(slices.Sorted(slices.Values(words)))
}

// and returns the union of two trusts.
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

// words returns the part of a trust that decides with which jobs a store is shared: the keys, and the
// substituters whose URL may switch off the check of signatures, as by "?trusted=1".
func (t trust) words() []string {
	unsigned := slices.DeleteFunc(slices.Clone(t.substituters), func(text string) bool {
		u, err := url.Parse(text)
		return err == nil && u.RawQuery == ""
	})
	return slices.Concat(t.keys, unsigned)
}

// agreed returns what a job trusts, in addition to what others, which are the image's and the operator's settings, trust.
// If these have Nix require no signatures, it accepts anything from any substituter, also from those of the request.
func agreed(job jobenv.Job, t trust, others string) []string {
	if !nixconf.IsOff(others, "require-sigs") {
		return t.words()
	}
	t = t.and(newTrust(nixconf.List(job.DaemonConfig+"\n"+job.NixConfig, "substituters"), nil))
	return slices.Concat(t.keys, t.substituters)
}

// checkForgeable returns an errUnusable if earlier jobs in the store could have forged the results of derivations.
// others are the image's and the operator's settings. The builder keeps no store if those of the operator are the reason.
func checkForgeable(job jobenv.Job, others string) error {
	if job.Store == jobenv.StoreUsed && nixconf.HasCADerivations(others) {
		return errUnusable{"the job image's nix.conf enables ca-derivations, so earlier jobs in it can have forged what derivations yield"}
	}
	return nil
}

// agree returns an errUnusable if earlier jobs in the store trusted more than this job does. Otherwise it
// writes down what this job trusts.
func (s store) agree(trusted []string) error {
	name := filepath.Join(s.root, trustFile)
	var before []string
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &before)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errUnusable{fmt.Sprintf("it is not known which caches earlier jobs in it trusted: %v", err)}
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
	if err := replaceFile(name, text); err != nil {
		return err
	}
	// The file must be on the disk before anything from these caches is: a power failure must not leave
	// that without this file.
	return errors.Join(syncFolder(name), syncFolder(s.root))
}

const (
	flakeFile = sourceDir + "/flake.nix"
	// flakeTimeout is how long reading a flake's settings may take. They are usually constants.
	// maxFlakeConfig is their greatest length, in bytes of JSON.
	flakeTimeout   = 30 * time.Second
	maxFlakeConfig = 64 << 10
)

// nobody is the user that reads a flake's settings. It owns nothing in the container. The job's user could
// read the files with the job's tokens.
var nobody = &user{uid: 65534, gid: 65534, name: "nobody", home: "/var/empty"}

// trustOfFlake returns what the flake in the source trusts, and writes that to the log. If the source has no
// flake, it returns an empty trust.
func trustOfFlake(r runner) trust {
	if _, err := os.Stat(flakeFile); errors.Is(err, fs.ErrNotExist) {
		return trust{}
	}
	// Nix requires these settings to be constants. So the evaluation may neither read other files nor
	// fetch anything.
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

// parseFlakeConfig reads a flake's nixConfig, which is given as JSON.
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

// wordsOf returns the words of a setting, whose value is a string or a list of strings.
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
