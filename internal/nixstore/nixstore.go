// Package nixstore asks a Nix store what it holds. It speaks the worker protocol, in
// which Nix's own commands talk to its daemon: unlike the JSON that they print, it keeps
// its form from version to version. The other side is 'nix-daemon --stdio', which opens
// the store as any of Nix's commands would.
package nixstore

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/nix-community/go-nix/pkg/wire"

	"iglu.sh/builder/internal/lazyregexp"
)

// Numbers of the worker protocol, from worker-protocol.hh in Nix's sources. A version
// is the major one in the upper byte and the minor one in the lower.
const (
	clientMagic = 0x6e697863
	daemonMagic = 0x6478696f

	ourVersion    = 1<<8 | 35 // of Nix 2.15; daemons speak any that is older than theirs
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

// maxString and maxList bound what is read of one string, in bytes, and how many
// strings of one list: a store has some 100,000 paths, a path some thousand references.
const (
	maxString = 1 << 20
	maxList   = 1 << 24
)

// MaxPath is the length in bytes of the longest path of a store.
const MaxPath = len("/nix/store/") + 32 + len("-") + 211

// storePath is a hash in Nix's base32, and a name of at most 211 characters.
var storePath = lazyregexp.New(`^/nix/store/[0-9a-df-np-sv-z]{32}-[0-9a-zA-Z+\-._?=]{1,211}$`)

// IsPath reports whether a text can be a path of a store.
func IsPath(text string) bool { return len(text) <= MaxPath && storePath().MatchString(text) }

// Info is what a store knows of one of its paths.
type Info struct {
	Path       string
	NarHash    [32]byte // SHA-256 of its archive
	NarSize    int64    // of its archive, in bytes
	References []string // store paths, its own among them if it refers to itself
	Deriver    string   // the store path of its .drv, or nothing
	Signatures []string // KEY-NAME:BASE64 each
	BuiltHere  bool     // by this store, rather than copied or added to it
	// ContentAddress says how the path follows from its contents, or is empty where it follows from
	// how it is built.
	ContentAddress string
}

// A Store is a connection to a daemon. After an error of the connection, it is of no
// more use. It is for one goroutine.
type Store struct {
	files Files
	r     *bufio.Reader
	w     *bufio.Writer
}

// Open greets the daemon at the other end of conn.
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
	// No CPU affinity and no reserved space: both are of the past.
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

// Paths returns all valid paths of the store, in any order.
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

// ErrNoPath is returned for what is not a valid path of the store.
var ErrNoPath = errors.New("the store has no such path")

// Info returns what the store knows of a path.
func (s *Store) Info(path string) (Info, error) {
	info, err := s.info(path)
	if err != nil {
		return Info{}, fmt.Errorf("look up %s: %w", path, err)
	}
	return info, nil
}

func (s *Store) info(path string) (Info, error) {
	if !IsPath(path) { // at which the daemon would hang up
		return Info{}, ErrNoPath
	}
	if err := s.send(opQueryPathInfo); err != nil {
		return Info{}, err
	}
	if err := errors.Join(wire.WriteString(s.w, path), s.w.Flush()); err != nil {
		return Info{}, err
	}
	if err := s.awaitAnswer(); err != nil {
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
	info.Signatures = d.strings()
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

// begin begins to send, with numbers.
func (s *Store) begin(numbers ...uint64) error {
	for _, n := range numbers {
		if err := wire.WriteUint64(s.w, n); err != nil {
			return err
		}
	}
	return nil
}

// send sends numbers, and what was begun before.
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

// A decoder reads values until one cannot be read, and nothing after that.
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

// awaitAnswer reads past what the daemon has to say before it answers.
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

// readError reads an error of the daemon's, which is not one of the connection.
func (s *Store) readError() error {
	d := decoder{store: s}
	d.string() // its type, always "Error"
	d.number() // its level
	d.string() // its name
	text := d.string()
	d.number() // whether a position follows; none ever does
	for n := d.number(); n > 0 && d.err == nil; n-- {
		d.number() // likewise
		d.string()
	}
	if d.err != nil {
		return d.err
	}
	return errors.New(text)
}
