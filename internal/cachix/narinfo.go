package cachix

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// narInfoFields has the fields of a narinfo, each with its values in order. Unknown fields are included, and
// ignored, as Nix does.
type narInfoFields map[string][]string

// parseNarInfo parses lines of the form 'Key: value'.
func parseNarInfo(text string) (narInfoFields, error) {
	fields := narInfoFields{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("a line that is none of a narinfo: %.80q", line)
		}
		fields[name] = append(fields[name], strings.TrimSpace(value))
	}
	return fields, nil
}

// one returns the value of a field that must occur exactly once.
func (f narInfoFields) one(name string) (string, error) {
	if values := f[name]; len(values) == 1 {
		return values[0], nil
	}
	return "", fmt.Errorf("%s stands there %d times", name, len(f[name]))
}

// compare returns an error that says in what a narinfo differs from the pushed path first.
func (f narInfoFields) compare(p Path, pushed Pushed, keys []ed25519.PublicKey) error {
	if err := f.equal("StorePath", p.StorePath); err != nil {
		return err
	}
	if err := f.equalHash("NarHash", p.NarHash); err != nil {
		return err
	}
	if err := f.equal("NarSize", strconv.FormatInt(p.NarSize, 10)); err != nil {
		return err
	}
	// A narinfo need not have these.
	if pushed.FileSize != 0 && len(f["FileHash"]) > 0 {
		if err := f.equalHash("FileHash", pushed.FileHash); err != nil {
			return err
		}
	}
	if pushed.FileSize != 0 && len(f["FileSize"]) > 0 {
		if err := f.equal("FileSize", strconv.FormatInt(pushed.FileSize, 10)); err != nil {
			return err
		}
	}
	if err := f.compareReferences(p); err != nil {
		return err
	}
	if _, err := f.one("URL"); err != nil {
		return err
	}
	return f.checkSignature(p, pushed.signature, keys)
}

// ofItsBuild returns a path with the archive and the references that a narinfo has for it, if they are well formed.
// They differ if another build of the derivation has made the path in the cache, and its result differs.
func (f narInfoFields) ofItsBuild(p Path) Path {
	other := p
	hash, err1 := f.one("NarHash")
	size, err2 := f.one("NarSize")
	references, err3 := f.references()
	if errors.Join(err1, err2, err3) != nil {
		return p
	}
	other.NarHash, err1 = parseHash(hash)
	other.NarSize, err2 = strconv.ParseInt(size, 10, 64)
	other.References = nil
	for _, name := range references {
		other.References = append(other.References, StoreDir+name)
	}
	if errors.Join(err1, err2, other.check()) != nil {
		return p
	}
	return other
}

func (f narInfoFields) equal(name, want string) error {
	got, err := f.one(name)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %.300q, and %q was pushed", name, got, want)
	}
	return err
}

func (f narInfoFields) equalHash(name string, want Hash) error {
	text, err := f.one(name)
	if err != nil {
		return err
	}
	got, err := parseHash(text)
	if err != nil || got != want {
		return fmt.Errorf("%s is %.80q, and %q was pushed", name, text, want)
	}
	return nil
}

// references returns the base names of the references. Some caches leave the field out if there are none.
func (f narInfoFields) references() ([]string, error) {
	if len(f["References"]) == 0 {
		return nil, nil
	}
	text, err := f.one("References")
	return strings.Fields(text), err
}

func (f narInfoFields) compareReferences(p Path) error {
	got, err := f.references()
	if err != nil {
		return err
	}
	slices.Sort(got)
	var want []string
	for _, reference := range p.references() {
		want = append(want, reference[len(StoreDir):])
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("the References are %.300q, and %d were pushed", strings.Join(got, " "), len(want))
	}
	return nil
}

// maxSignatures is how many signatures a narinfo may have. Caches have one or two. Each is verified with each key, of
// which a cache may have maxKeys.
const maxSignatures = 16

// checkSignature looks for a signature by one of the keys, under any name. made is the signature that was
// made for the path just now: it is only compared, because verifying it would take longer than all other
// comparisons.
func (f narInfoFields) checkSignature(p Path, made string, keys []ed25519.PublicKey) error {
	if len(keys) == 0 {
		return nil
	}
	if n := len(f["Sig"]); n > maxSignatures {
		return fmt.Errorf("it has %d signatures, and may have %d", n, maxSignatures)
	}
	fingerprint := []byte(p.Fingerprint())
	for _, text := range f["Sig"] {
		_, encoded, _ := strings.Cut(text, ":")
		if made != "" && encoded == made {
			return nil
		}
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if err == nil && slices.ContainsFunc(keys, func(key ed25519.PublicKey) bool { return ed25519.Verify(key, fingerprint, signature) }) {
			return nil
		}
	}
	return fmt.Errorf("none of its %d signatures is the one that was pushed", len(f["Sig"]))
}
