package nixstore

import (
	"bytes"
	"errors"
	"path"
	"slices"
	"strings"
)

// A Derivation is what is of interest here of a .drv file.
type Derivation struct {
	// Outputs are the store paths that it builds; "" for one that is known only when it is
	// built.
	Outputs []string
	// Inputs are the store paths of the derivations that it needs.
	Inputs []string
}

// ParseDerivation reads the beginning of a .drv file: an ATerm, of which the outputs and the
// derivations that are needed come first. What follows them is not looked at. It does not
// read the experimental form for derivations that are made by others.
func ParseDerivation(text []byte) (Derivation, error) {
	var d Derivation
	a := aterm{rest: text}
	a.expect(`Derive(`)
	a.list(func() {
		a.expect(`(`)
		a.string() // its name
		a.expect(`,`)
		path := a.string()
		a.expect(`,`)
		a.string() // how a fixed output is hashed
		a.expect(`,`)
		a.string() // and to what
		a.expect(`)`)
		a.failed = a.failed || path != "" && !IsPath(path)
		d.Outputs = append(d.Outputs, path)
	})
	a.expect(`,`)
	a.list(func() {
		a.expect(`(`)
		path := a.string()
		a.expect(`,`)
		a.list(func() { a.string() }) // which of its outputs
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

// IsDerivation reports whether a text can be the path of a .drv file of a store.
func IsDerivation(text string) bool { return strings.HasSuffix(text, ".drv") && IsPath(text) }

// An aterm reads a term until something is not as it must be, and nothing after that.
type aterm struct {
	rest   []byte
	failed bool
}

func (a *aterm) expect(text string) {
	rest, ok := bytes.CutPrefix(a.rest, []byte(text))
	a.rest, a.failed = rest, a.failed || !ok
}

// string reads a string. Those that are read have nothing in them that is to be escaped.
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

// list reads a list of what item reads.
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

// DerivationName returns what tells a derivation from others in a store, and its name as people know it: of
// /nix/store/HASH-hello-2.12.drv they are HASH and hello-2.12.
func DerivationName(drv string) (hash, name string) {
	base := strings.TrimSuffix(path.Base(drv), ".drv")
	hash, name, ok := strings.Cut(base, "-")
	if !ok {
		return "", base
	}
	return hash, name
}
