package nixstore

import (
	"bytes"
	"errors"
	"path"
	"slices"
	"strings"
)

// A Derivation has the parts of a .drv file that are used here.
type Derivation struct {
	// Outputs are the store paths that it builds; "" for one that is known only after the build.
	Outputs []string
	// Inputs are the store paths of the derivations that it needs.
	Inputs []string
}

// parseDerivation parses the beginning of a .drv file: an ATerm that begins with the outputs and the input
// derivations. It ignores the rest. It does not support the experimental format for dynamic derivations.
func parseDerivation(text []byte) (Derivation, error) {
	var d Derivation
	a := aterm{rest: text}
	a.expect(`Derive(`)
	a.list(func() {
		a.expect(`(`)
		a.string() // its name
		a.expect(`,`)
		path := a.string()
		a.expect(`,`)
		a.string() // the hash algorithm of a fixed output
		a.expect(`,`)
		a.string() // its hash
		a.expect(`)`)
		a.failed = a.failed || path != "" && !IsPath(path)
		d.Outputs = append(d.Outputs, path)
	})
	a.expect(`,`)
	a.list(func() {
		a.expect(`(`)
		path := a.string()
		a.expect(`,`)
		a.list(func() { a.string() }) // which of its outputs are needed
		a.expect(`)`)
		a.failed = a.failed || !IsDerivation(path)
		d.Inputs = append(d.Inputs, path)
	})
	a.expect(`,`)
	if a.failed {
		return Derivation{}, errors.New("this is no derivation")
	}
	return d, nil
}

// IsDerivation reports whether a text has the syntax of a derivation's store path.
func IsDerivation(text string) bool { return strings.HasSuffix(text, ".drv") && IsPath(text) }

// An aterm is a parser of a term. After a syntax error it reads no more.
type aterm struct {
	rest   []byte
	failed bool
}

func (a *aterm) expect(text string) {
	rest, ok := bytes.CutPrefix(a.rest, []byte(text))
	a.rest, a.failed = rest, a.failed || !ok
}

// string reads a string. It supports no escapes: the strings that are read here need none.
func (a *aterm) string() string {
	a.expect(`"`)
	end := bytes.IndexByte(a.rest, '"')
	if a.failed || end < 0 || slices.Contains(a.rest[:end], '\\') {
		a.failed = true
		return ""
	}
	text := string(a.rest[:end])
	a.rest = a.rest[end+1:]
	return text
}

// list reads a list, whose items are read by item.
func (a *aterm) list(item func()) {
	a.expect(`[`)
	for first := true; !a.failed && !bytes.HasPrefix(a.rest, []byte(`]`)); first = false {
		if !first {
			a.expect(`,`)
		}
		item()
	}
	a.expect(`]`)
}

// DerivationName returns the hash and the name in the store path of a derivation: HASH and hello-2.12 for
// /nix/store/HASH-hello-2.12.drv.
func DerivationName(drv string) (hash, name string) {
	base := strings.TrimSuffix(path.Base(drv), ".drv")
	hash, name, ok := strings.Cut(base, "-")
	if !ok {
		return "", base
	}
	return hash, name
}
