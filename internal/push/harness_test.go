package push

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/wire"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/memnet"
)

const token = "the-api-key"

// Patterns of the protocol's calls.
const (
	lookUpCall   = "/api/v1/cache/*"
	listCall     = "/api/v1/cache/*/narinfo"
	beginCall    = "/api/v1/cache/*/multipart-nar"
	completeCall = "/api/v1/cache/*/multipart-nar/*/complete"
	narInfoCall  = "/default/*.narinfo"
)

// A fixture is a cache of a kind, a store, and a job's log, in a bubble of testing/synctest.
type fixture struct {
	t       *testing.T
	kind    devcache.Kind
	folder  string
	private bool // the cache; set before start
	network memnet.Network
	cache   *devcache.Server
	kill    func()
	restart sync.WaitGroup
	key     ed25519.PrivateKey
	store   *fakeStore
	options Options
	begun   time.Time

	mu  sync.Mutex
	log []string
}

// inBubble runs a test with a cache of a kind that has the job's key.
func inBubble(t *testing.T, kind devcache.Kind, test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{t: t, kind: kind, folder: t.TempDir(), store: newFakeStore(), begun: time.Now(),
			key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))}
		f.start()
		if err := f.cache.AddKey("default", f.public()); err != nil {
			t.Fatal(err)
		}
		f.options = Options{Target: "http://cache/default", Token: token, SigningKey: base64.StdEncoding.EncodeToString(f.key), dial: f.network.Dial}
		test(t, f)
		f.restart.Wait()
		f.kill()
	})
}

func inEachKind(t *testing.T, test func(t *testing.T, f *fixture)) {
	for _, kind := range devcache.Kinds() {
		t.Run(kind.String(), func(t *testing.T) { inBubble(t, kind, test) })
	}
}

// begin sets the beginning of the test's time to now.
func (f *fixture) begin(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun = now
}

func (f *fixture) start() {
	var err error
	f.cache, err = devcache.New(devcache.Options{Folder: f.folder, Token: token, Names: []string{"default"}, Kind: f.kind, Private: f.private})
	if err != nil {
		f.t.Error(err)
		return
	}
	f.kill = f.network.Serve("cache:80", f.cache)
}

// outage stops the cache now, and starts it again after a while.
func (f *fixture) outage(away time.Duration) {
	f.kill()
	f.restart.Go(func() {
		time.Sleep(away)
		f.start()
	})
}

func (f *fixture) public() string {
	return base64.StdEncoding.EncodeToString(f.key.Public().(ed25519.PublicKey))
}

func (f *fixture) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf("%.0f: ", time.Since(f.begun).Seconds())+fmt.Sprintf(format, args...))
}

// prepare returns a Pusher from the fixture's store to the cache.
func (f *fixture) prepare() (*Pusher, error) {
	p, err := Prepare(f.t.Context(), f.options, f.say)
	if err == nil {
		p.sender.dump = f.store.dump
	}
	return p, err
}

// A job is a running push.
type job struct {
	*Pusher
	cancel context.CancelFunc
}

// watch begins a job.
func (f *fixture) watch() *job {
	f.t.Helper()
	p, err := f.prepare()
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	if err := p.Watch(ctx, f.store); err != nil {
		f.t.Fatal(err)
	}
	return &job{p, cancel}
}

func (j *job) finish(about ...string) string {
	return j.finishAll(Command{Used: about})
}

func (j *job) finishAll(c Command) string {
	unpushed := j.Finish(context.Background(), c)
	j.cancel()
	j.Close()
	return unpushed
}

// run runs a whole job with some results.
func (f *fixture) run(results ...string) (unpushed string) {
	f.t.Helper()
	return f.watch().finish(results...)
}

// wantLine checks that a line of the log matches. In the pattern, … matches any text.
func (f *fixture) wantLine(want string) {
	f.t.Helper()
	pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*") + "$")
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.ContainsFunc(f.log, pattern.MatchString) {
		f.t.Errorf("no line is %q:\n%s", want, strings.Join(f.log, "\n"))
	}
}

// lines returns how many lines of the log contain a text.
func (f *fixture) lines(text string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range f.log {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (f *fixture) wantTotal(pushed, there, upstream int) {
	f.t.Helper()
	f.wantLine(fmt.Sprintf("…: push: %s pushed (…), %d already there, %d skipped as upstream's; …", paths(pushed), there, upstream))
}

// wantPaths checks how many paths the cache has.
func (f *fixture) wantPaths(want int) {
	f.t.Helper()
	files, err := filepath.Glob(f.folder + "/default/narinfo/*.narinfo")
	if err != nil || len(files) != want {
		f.t.Errorf("the cache has %d paths, want %d; %v", len(files), want, err)
	}
}

// wantNames checks which paths the cache has, by their names in order.
func (f *fixture) wantNames(want ...string) {
	f.t.Helper()
	f.wantPaths(len(want))
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	var got []string
	for path := range f.store.infos {
		hash, name, _ := strings.Cut(strings.TrimPrefix(path, cachix.StoreDir), "-")
		if _, err := os.Stat(f.folder + "/default/narinfo/" + hash + ".narinfo"); err == nil {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		f.t.Errorf("the cache has %q, want %q", got, want)
	}
}

// took checks how long a test has run so far.
func (f *fixture) took(least, most time.Duration) {
	f.t.Helper()
	if took := time.Since(f.begun); took < least || took > most {
		f.t.Errorf("took %s, want %s to %s", took, least, most)
	}
}

// count counts requests with a method and a path, from now on.
func (f *fixture) count(method, pattern string, faults ...devcache.Fault) *atomic.Int64 {
	var n atomic.Int64
	f.cache.Misbehave(append(faults, devcache.On(method, pattern, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			next.ServeHTTP(w, r)
		})
	}))...)
	return &n
}

// A fakeStore is a store in memory.
type fakeStore struct {
	mu      sync.Mutex
	infos   map[string]nixstore.Info
	nars    map[string][]byte
	outputs map[string]nixstore.Outputs // of derivations and of what they need
	broken  error
}

func newFakeStore() *fakeStore {
	return &fakeStore{infos: map[string]nixstore.Info{}, nars: map[string][]byte{}, outputs: map[string]nixstore.Outputs{}}
}

// add adds a path with references.
func (s *fakeStore) add(name string, references ...string) string {
	sum := sha256.Sum256([]byte(name))
	path := cachix.StoreDir + nixbase32.EncodeToString(sum[:20]) + "-" + name
	s.put(path, "of "+name, references)
	return path
}

// put adds or replaces a path with this content.
func (s *fakeStore) put(path, content string, references []string) {
	var nar bytes.Buffer
	for _, text := range []string{"nix-archive-1", "(", "type", "regular", "contents", content, ")"} {
		wire.WriteString(&nar, text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nars[path] = nar.Bytes()
	s.infos[path] = nixstore.Info{Path: path, NarHash: sha256.Sum256(nar.Bytes()), NarSize: int64(nar.Len()), References: references, BuiltHere: true}
}

// remove removes paths.
func (s *fakeStore) remove(paths ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		delete(s.infos, path)
	}
}

// change changes the store's metadata of a path.
func (s *fakeStore) change(path string, change func(*nixstore.Info)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info := s.infos[path]
	change(&info)
	s.infos[path] = info
}

// chain adds n paths, each of which refers to the one before, and returns the last.
func (s *fakeStore) chain(n int) (last string) {
	for i := range n {
		var references []string
		if i > 0 {
			references = []string{last}
		}
		last = s.add(fmt.Sprint("link-", i), references...)
	}
	return last
}

func (s *fakeStore) Paths() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for path := range s.infos {
		paths = append(paths, path)
	}
	return paths, nil
}

func (s *fakeStore) Info(path string) (nixstore.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, ok := s.infos[path]
	if !ok {
		return info, nixstore.ErrNoPath
	}
	return info, s.broken
}

func (s *fakeStore) Outputs(derivations []string) (all nixstore.Outputs, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, drv := range derivations {
		all.Paths = append(all.Paths, s.outputs[drv].Paths...)
		all.Floating = append(all.Floating, s.outputs[drv].Floating...)
	}
	return all, nil
}

func (s *fakeStore) dump(w io.Writer, path string) error {
	s.mu.Lock()
	nar := s.nars[path]
	s.mu.Unlock()
	_, err := w.Write(nar)
	return err
}
