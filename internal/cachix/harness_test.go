package cachix

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/wire"
	"go.uber.org/goleak"

	"iglu.sh/builder/test/kit/devcache"
)

// token holds characters that an address has to escape.
const token = "iglu_t0ken-very/secret+and=long"

// cacheFolderEnv makes the test program serve a cache in this folder instead of running tests, so that the memory
// of a client can be measured without that of the cache.
const cacheFolderEnv = "IGLU_TEST_CACHE_FOLDER"

func TestMain(m *testing.M) {
	if folder := os.Getenv(cacheFolderEnv); folder != "" {
		serveForever(folder)
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := recorder.search(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// recorder records every error that a client returns in a test, and every secret, so that TestMain can check that no
// error contains a secret.
var recorder = &secretRecorder{secrets: map[string]bool{token: true, url.QueryEscape(token): true, url.PathEscape(token): true}}

type secretRecorder struct {
	mu      sync.Mutex
	errors  []string
	secrets map[string]bool
}

// keep records an error in all its formats, and returns it.
func (r *secretRecorder) keep(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for e := err; e != nil; e = errors.Unwrap(e) {
		r.errors = append(r.errors, e.Error(), fmt.Sprintf("%+v %#v", e, e))
	}
	return err
}

// secret records a text that no error may contain.
func (r *secretRecorder) secret(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets[text] = true
}

// search looks for every secret in every error.
func (r *secretRecorder) search() error {
	for _, text := range r.errors {
		for secret := range r.secrets {
			if strings.Contains(text, secret) {
				return fmt.Errorf("an error holds a secret: %s", text)
			}
		}
	}
	fmt.Printf("searched %d texts of errors for %d secrets\n", len(r.errors), len(r.secrets))
	return nil
}

// A fixture is a cache with a client.
type fixture struct {
	t      *testing.T
	cache  *devcache.Server
	folder string
	url    string // of the host
	*Client
	key *SigningKey
}

// quick returns options without waits between attempts, so that tests end soon. The timeouts are the defaults,
// because the machine may be busy.
func quick() Options {
	return Options{Attempts: 3, Backoff: time.Millisecond, RetryFor: 500 * time.Millisecond}
}

// testPart is the size of parts in tests, in bytes. It is less than users can set, so that small archives have many
// parts.
const testPart = 64 << 10

// newFixture starts a cache that knows the client's key.
func newFixture(t *testing.T, options Options) *fixture {
	t.Helper()
	w := emptyFixture(t, options)
	w.register()
	return w
}

// register adds the client's key to the cache's keys, as Cachix's own client does.
func (w *fixture) register() {
	w.t.Helper()
	if err := w.retrier.do(w.t.Context(), call{doing: "register a signing key with", method: http.MethodPost,
		url: w.transport.api + "/key", body: map[string]string{"publicKey": w.key.Public()}}); err != nil {
		w.t.Fatal(err)
	}
}

// emptyFixture starts a cache that knows no key.
func emptyFixture(t *testing.T, options Options) *fixture {
	t.Helper()
	w := &fixture{t: t, folder: t.TempDir(), key: newKey(t)}
	var err error
	if w.cache, err = devcache.New(devcache.Options{Folder: w.folder, Token: token, Names: []string{"default"}, MinPart: testPart}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(secretsOf(w.cache))
	t.Cleanup(server.Close)
	w.url = server.URL
	w.Client = newClient(t, server.URL+"/default", options)
	w.uploader.parts.size = testPart
	return w
}

func newClient(t *testing.T, target string, options Options) *Client {
	t.Helper()
	client, err := New(target, token, options)
	if err != nil {
		t.Fatal(recorder.keep(err))
	}
	t.Cleanup(client.Close)
	return client
}

// secretsOf records the queries of the addresses that parts are sent to.
func secretsOf(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			recorder.secret(r.URL.RawQuery)
			if _, secret, ok := strings.Cut(r.URL.RawQuery, "key="); ok {
				recorder.secret(secret)
			}
		}
		next.ServeHTTP(w, r)
	})
}

func newKey(t *testing.T) *SigningKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(private)
	recorder.secret(text)
	recorder.secret(text[:40])
	key, err := ParseSigningKey("somebody-1:" + text + "\n")
	if err != nil {
		t.Fatal(recorder.keep(err))
	}
	return key
}

// push pushes a path and keeps the error.
func (w *fixture) push(ctx context.Context, s sample) (Pushed, error) {
	pushed, err := w.Push(ctx, s.Path, s.nar, w.key)
	return pushed, recorder.keep(err)
}

// announced reports whether the cache shows a path to Nix.
func (w *fixture) announced(p Path) bool {
	w.t.Helper()
	_, err := os.Stat(w.folder + "/default/narinfo/" + p.Hash() + ".narinfo")
	return err == nil
}

// uploads returns how many uploads and files of them are left in the cache.
func (w *fixture) uploads() int {
	w.t.Helper()
	entries, err := os.ReadDir(w.folder + "/default/uploads")
	if err != nil {
		w.t.Fatal(err)
	}
	return w.cache.Uploads() + len(entries)
}

// get reads from the cache as Nix does.
func (w *fixture) get(path string) []byte {
	w.t.Helper()
	response, err := http.Get(w.url + "/default/" + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		w.t.Fatalf("get %s: %s, %v", path, response.Status, err)
	}
	http.DefaultClient.CloseIdleConnections()
	return body
}

// archive returns the cache's archive of a path, decompressed.
func (w *fixture) archive(p Path) []byte {
	w.t.Helper()
	fields, err := parseNarInfo(string(w.get(p.Hash() + ".narinfo")))
	if err != nil {
		w.t.Fatal(err)
	}
	reader, err := zstd.NewReader(bytes.NewReader(w.get(fields["URL"][0])))
	if err != nil {
		w.t.Fatal(err)
	}
	defer reader.Close()
	archive, err := io.ReadAll(reader)
	if err != nil {
		w.t.Fatal(err)
	}
	return archive
}

// A sample is a path with its archive.
type sample struct {
	Path
	nar func(io.Writer) error
}

// describe returns a sample with the archive that nar writes.
func describe(t *testing.T, name string, nar func(io.Writer) error, references ...string) sample {
	t.Helper()
	archive := &meter{hash: sha256.New()}
	if err := nar(archive); err != nil {
		t.Fatal(err)
	}
	return sample{Path{StorePath: storePathOf(name), NarHash: Hash(archive.hash.Sum(nil)), NarSize: archive.size,
		References: references}, nar}
}

// storePathOf returns a store path with a hash that its name determines.
func storePathOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return StoreDir + nixbase32.EncodeToString(sum[:20]) + "-" + name
}

// file is the archive of one file of random bytes, which do not compress.
func file(seed uint64, size int64) func(io.Writer) error {
	return func(w io.Writer) error {
		for _, text := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
			if err := wire.WriteString(w, text); err != nil {
				return err
			}
		}
		if err := wire.WriteUint64(w, uint64(size)); err != nil {
			return err
		}
		var s [32]byte
		binary.LittleEndian.PutUint64(s[:], seed)
		if _, err := io.CopyBuffer(onlyWriter{w}, io.LimitReader(rand.NewChaCha8(s), size), make([]byte, 64<<10)); err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, -size&7)); err != nil {
			return err
		}
		return wire.WriteString(w, ")")
	}
}

type onlyWriter struct{ io.Writer }

// serveUntilEOF serves on a free port, prints its URL, and ends when its input ends.
func serveUntilEOF(handler http.Handler) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(listener, handler)
	fmt.Printf("http://%s\n", listener.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// small and large are samples of one part and of three.
func small(t *testing.T) sample { return describe(t, "small-1.0", file(1, 1000)) }
func large(t *testing.T) sample { return describe(t, "large-1.0", file(2, 2*testPart+12345)) }
