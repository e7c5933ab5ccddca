package cachix

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"iglu.sh/builder/internal/nixstore"
)

const (
	// StoreDir is the folder of Nix's store, with a slash at its end.
	StoreDir = "/nix/store/"
	// hashLen is the length of the hash at the beginning of a path's base name: 20 bytes in Nix's base32.
	hashLen = 32
)

// A Hash is a SHA-256.
type Hash [sha256.Size]byte

// parseHash parses a SHA-256 in the formats that Nix prints: sha256:NIX-BASE32, sha256:HEX and, in JSON,
// sha256-BASE64.
func parseHash(text string) (Hash, error) {
	var raw []byte
	var err error
	encoded, colon := strings.CutPrefix(text, "sha256:")
	sri, dash := strings.CutPrefix(text, "sha256-")
	switch {
	case colon && len(encoded) == nixbase32.EncodedLen(sha256.Size):
		raw, err = nixbase32.DecodeString(encoded)
	case colon:
		raw, err = hex.DecodeString(encoded)
	case dash:
		raw, err = base64.StdEncoding.DecodeString(sri)
	}
	if err != nil || len(raw) != sha256.Size {
		return Hash{}, fmt.Errorf("%.80q is not a SHA-256 as Nix writes it", text)
	}
	return Hash(raw), nil
}

// String returns sha256:NIX-BASE32.
func (h Hash) String() string { return "sha256:" + nixbase32.EncodeToString(h[:]) }

// A Path is the metadata of a store path.
type Path struct {
	StorePath  string   // /nix/store/HASH-NAME
	NarHash    Hash     // of its archive
	NarSize    int64    // size of its archive, in bytes
	References []string // store paths in any order; they include the path itself if it refers to itself
	Deriver    string   // the store path of its .drv, or ""
}

// Hash returns the 32 characters by which caches identify the path.
func (p Path) Hash() string { return p.base()[:min(hashLen, len(p.base()))] }

// Name returns the part of the base name after the hash.
func (p Path) Name() string { return p.base()[min(hashLen+1, len(p.base())):] }

func (p Path) base() string { return strings.TrimPrefix(p.StorePath, StoreDir) }

// check returns an error if the path cannot be pushed.
func (p Path) check() error {
	paths := append([]string{p.StorePath}, p.References...)
	if p.Deriver != "" {
		paths = append(paths, p.Deriver)
	}
	for _, path := range paths {
		if !nixstore.IsPath(path) {
			return fmt.Errorf("%.300q is not a store path", path)
		}
	}
	if p.NarSize <= 0 {
		return fmt.Errorf("%s has no size", p.StorePath)
	}
	return nil
}

// references returns the references, sorted and without duplicates.
func (p Path) references() []string {
	return slices.Compact(slices.Sorted(slices.Values(p.References)))
}

// Fingerprint returns the text that a signature of the path signs (ValidPathInfo::fingerprint in Nix's
// sources):
// 1;STORE-PATH;NAR-HASH;NAR-SIZE;REFERENCE,REFERENCE,…
func (p Path) Fingerprint() string {
	return strings.Join([]string{
		"1", p.StorePath, p.NarHash.String(), strconv.FormatInt(p.NarSize, 10), strings.Join(p.references(), ","),
	}, ";")
}
