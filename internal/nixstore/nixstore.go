// Package nixstore reads the content of a Nix store: which paths are valid, and their metadata,
// derivations and logs. A Store asks a nix-daemon by the worker protocol, which Nix's own commands use.
// Unlike the JSON that these print, the protocol is stable between versions of Nix. Files reads the
// store's files without a daemon.
package nixstore

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nix-community/go-nix/pkg/wire"
)

// Numbers of the worker protocol, from worker-protocol.hh in Nix's sources. The upper byte of a version
// is the major version, and the lower byte the minor version.
const (
	clientMagic = 0x6e697863
	daemonMagic = 0x6478696f

	ourVersion    = 1<<8 | 35 // of Nix 2.15; daemons support all versions before their own
	leastVersion  = 1<<8 | 29 // of Nix 2.4, the first with flakes
	tellsRelease  = 1<<8 | 33
	tellsTrust    = 1<<8 | 35
	majorVersions = 0xff00

	opQueryAllValidPaths       = 23
	opQueryPathInfo            = 26
	opQueryValidPaths          = 31
	opQueryDerivationOutputMap = 41

	stderrNext          = 0x6f6c6d67
	stderrLast          = 0x616c7473
	stderrError         = 0x63787470
	stderrStartActivity = 0x53545254
	stderrStopActivity  = 0x53544f50
	stderrResult        = 0x52534c54
)

// maxString is the length of the longest string that is read, in bytes, and maxList the greatest number
// of strings in a list. A store has some 100,000 paths, and a path some thousand references.
const (
	maxString = 1 << 20
	maxList   = 1 << 24
)

// A job's user can add any signatures to any path: the daemon does not check them, and keeps them in its database.
// maxSignature is the length of the longest that is read, in bytes: 88 are base64, and the others the key's name.
// maxSignatures is how many of a path are read. To verify so many takes some 60 ms. Nobody can tell junk from a genuine
// signature without that. So more junk can hide a genuine one, and then a path of an upstream is pushed.
const (
	maxSignature  = 256
	maxSignatures = 1000
)

// A store path is a folder, a hash in Nix's base32, a hyphen, and a name.
const (
	storeFolder = "/nix/store/"
	hashLength  = 32
	maxName     = 211
)

// MaxPath is the length in bytes of the longest path of a store.
const MaxPath = len(storeFolder) + hashLength + len("-") + maxName

// IsPath reports whether a text has the syntax of a store path. It is called for each path of large closures.
func IsPath(text string) bool {
	rest, ok := strings.CutPrefix(text, storeFolder)
	if !ok || len(text) > MaxPath || len(rest) <= hashLength+len("-") || rest[hashLength] != '-' {
		return false
	}
	for i := range len(rest) {
		switch c := rest[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z' && (i > hashLength || c != 'e' && c != 'o' && c != 't' && c != 'u'):
		case i >= hashLength && ('A' <= c && c <= 'Z' || strings.IndexByte("+-._?=", c) >= 0):
		default:
			return false
		}
	}
	return true
}

// Info is a store's metadata of a path.
type Info struct {
	Path       string
	NarHash    [32]byte // SHA-256 of its archive
	NarSize    int64    // size of its archive, in bytes
	References []string // store paths; they include the path itself if it refers to itself
	Deriver    string   // the store path of its .drv, or ""
	Signatures []string // in the format KEY-NAME:BASE64, unverified; long ones and those after maxSignatures are missing
	BuiltHere  bool     // false: it was copied or added to the store
	// ContentAddress says how the path is computed from its content. It is empty if the path is computed
	// from its derivation.
	ContentAddress string
}

// A Store is a connection to a daemon. It cannot be used after an error of the connection. It is not safe
// for concurrent use.
type Store struct {
	files Files
	r     *bufio.Reader
	w     *bufio.Writer
}

// Open returns a Store after the handshake with the daemon at the other end of conn.
func Open(conn io.ReadWriter) (*Store, error) {
	s := &Store{r: bufio.NewReader(conn), w: bufio.NewWriter(conn)}
	if err := s.greet(); err != nil {
		return nil, fmt.Errorf("open the Nix store: %w", err)
	}
	return s, nil
}

func (s *Store) greet() error {
	if err := s.send(clientMagic); err != nil {
		return err
	}
	if magic, err := wire.ReadUint64(s.r); err != nil || magic != daemonMagic {
		return errors.Join(errors.New("what answers is no Nix daemon"), err)
	}
	version, err := wire.ReadUint64(s.r)
	if err != nil {
		return err
	}
	if version&majorVersions != ourVersion&majorVersions || version < leastVersion {
		return fmt.Errorf("the job image's Nix speaks version %d.%d of the worker protocol, and 1.29 is the least; use an image with Nix 2.4 or later",
			version>>8, version&0xff)
	}
	version = min(version, ourVersion)
	// No CPU affinity and no reserved space: both are obsolete.
	if err := s.send(ourVersion, 0, 0); err != nil {
		return err
	}
	if version >= tellsRelease {
		if _, err := s.string(); err != nil {
			return err
		}
	}
	if version >= tellsTrust {
		if _, err := wire.ReadUint64(s.r); err != nil {
			return err
		}
	}
	return s.awaitAnswer()
}

// Paths returns all valid paths of the store, unsorted.
func (s *Store) Paths() ([]string, error) {
	paths, err := s.paths()
	if err != nil {
		return nil, fmt.Errorf("list the Nix store: %w", err)
	}
	return paths, nil
}

func (s *Store) paths() ([]string, error) {
	if err := s.send(opQueryAllValidPaths); err != nil {
		return nil, err
	}
	if err := s.awaitAnswer(); err != nil {
		return nil, err
	}
	return s.strings()
}

// ErrNoPath is the error for a path that is not valid in the store.
var ErrNoPath = errors.New("the store has no such path")

// Info returns the metadata of a path. The error is ErrNoPath if the path is not valid.
func (s *Store) Info(path string) (Info, error) {
	info, err := s.info(path)
	if err != nil {
		return Info{}, fmt.Errorf("look up %s: %w", path, err)
	}
	return info, nil
}

func (s *Store) info(path string) (Info, error) {
	if !IsPath(path) { // the daemon would close the connection
		return Info{}, ErrNoPath
	}
	if err := s.ask(opQueryPathInfo, path); err != nil {
		return Info{}, err
	}
	if valid, err := wire.ReadBool(s.r); err != nil {
		return Info{}, err
	} else if !valid {
		return Info{}, ErrNoPath
	}
	return s.readInfo(path)
}

// readInfo reads a ValidPathInfo without its path.
func (s *Store) readInfo(path string) (Info, error) {
	info := Info{Path: path}
	d := decoder{store: s}
	info.Deriver = d.string()
	narHash := d.string()
	info.References = d.strings()
	d.number() // when it was registered
	info.NarSize = int64(d.number())
	info.BuiltHere = d.number() != 0
	info.Signatures = decode(&d, s.signatures)
	info.ContentAddress = d.string()
	if d.err != nil {
		return Info{}, d.err
	}
	hash, err := hex.DecodeString(narHash)
	if err != nil || len(hash) != len(info.NarHash) {
		return Info{}, fmt.Errorf("its hash is no SHA-256: %q", narHash)
	}
	info.NarHash = [32]byte(hash)
	return info, nil
}

// begin writes numbers to the buffer.
func (s *Store) begin(numbers ...uint64) error {
	for _, n := range numbers {
		if err := wire.WriteUint64(s.w, n); err != nil {
			return err
		}
	}
	return nil
}

// ask sends a request about a path, and waits for the answer.
func (s *Store) ask(operation uint64, path string) error {
	if err := s.begin(operation); err != nil {
		return err
	}
	if err := errors.Join(wire.WriteString(s.w, path), s.w.Flush()); err != nil {
		return err
	}
	return s.awaitAnswer()
}

// send sends the buffer, and then numbers.
func (s *Store) send(numbers ...uint64) error { return errors.Join(s.begin(numbers...), s.w.Flush()) }

func (s *Store) string() (string, error) { return wire.ReadString(s.r, maxString) }

func (s *Store) strings() ([]string, error) {
	n, err := wire.ReadUint64(s.r)
	if err != nil {
		return nil, err
	}
	if n > maxList {
		return nil, fmt.Errorf("a list of %d strings", n)
	}
	list := make([]string, 0, min(n, 1024))
	for range n {
		text, err := s.string()
		if err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, nil
}

// signatures reads a list of signatures. Those that are too long or too many are skipped, and never in memory.
func (s *Store) signatures() ([]string, error) {
	n, err := wire.ReadUint64(s.r)
	if err != nil {
		return nil, err
	}
	var list []string
	for range n {
		length, content, err := wire.ReadBytes(s.r)
		if err != nil {
			return nil, err
		}
		if 0 < length && length <= maxSignature && len(list) < maxSignatures {
			text := make([]byte, length)
			if _, err := io.ReadFull(content, text); err != nil {
				return nil, err
			}
			list = append(list, string(text))
		}
		if err := content.Close(); err != nil { // it skips what was not read, and the padding
			return nil, err
		}
	}
	return list, nil
}

// A decoder reads values. After an error it reads no more.
type decoder struct {
	store *Store
	err   error
}

func (d *decoder) number() uint64 {
	return decode(d, func() (uint64, error) { return wire.ReadUint64(d.store.r) })
}
func (d *decoder) string() string    { return decode(d, d.store.string) }
func (d *decoder) strings() []string { return decode(d, d.store.strings) }

func decode[T any](d *decoder, read func() (T, error)) (value T) {
	if d.err == nil {
		value, d.err = read()
	}
	return value
}

// awaitAnswer skips the log messages that the daemon sends before its answer. It returns the daemon's
// error, if the answer is one.
func (s *Store) awaitAnswer() error {
	for {
		kind, err := wire.ReadUint64(s.r)
		if err != nil {
			return err
		}
		d := decoder{store: s}
		switch kind {
		case stderrLast:
			return nil
		case stderrError:
			return s.readError()
		case stderrNext:
			d.string()
		case stderrStartActivity:
			d.number() // its id
			d.number() // its level
			d.number() // its type
			d.string() // its text
			d.fields()
			d.number() // its parent's id
		case stderrStopActivity:
			d.number() // its id
		case stderrResult:
			d.number() // its activity's id
			d.number() // its type
			d.fields()
		default:
			return fmt.Errorf("the daemon says something unknown: %#x", kind)
		}
		if d.err != nil {
			return d.err
		}
	}
}

// fields reads the fields of an activity or a result: numbers and strings.
func (d *decoder) fields() {
	for n := d.number(); n > 0 && d.err == nil; n-- {
		if d.number() == 0 {
			d.number()
		} else {
			d.string()
		}
	}
}

// readError reads an error message of the daemon.
func (s *Store) readError() error {
	d := decoder{store: s}
	d.string() // its type, always "Error"
	d.number() // its level
	d.string() // its name
	text := d.string()
	d.number() // whether a position follows; it is always 0
	for n := d.number(); n > 0 && d.err == nil; n-- {
		d.number() // likewise
		d.string()
	}
	if d.err != nil {
		return d.err
	}
	return errors.New(text)
}
