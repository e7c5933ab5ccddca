// Package devcache is a cachix-compatible binary cache for development and tests. [New] returns an
// http.Handler that keeps its paths in a folder and serves them to Nix.
//
// The cache is strict: it rejects every upload in which a check finds an error, and says what is wrong.
// It shares no code with the client of the protocol, so that each tests the other. It can also behave as
// one of the two servers of Iglu Cache: see [Kind]. Tests make it fail with a [Fault].
//
// Its folder contains for each cache NAME:
//
//	NAME/keys                  the public signing keys, one per line
//	NAME/narinfo/HASH.narinfo  the metadata of a path for Nix; the path is announced when this file exists
//	NAME/nar/FILEHASH.nar.zst  the compressed archives; of Iglu Cache nar/HASH
//	NAME/uploads/              files that are being written, and parts of uploads
//
// An upload that has not been completed is lost when the process ends.
package devcache

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// Options are the settings of a Server.
type Options struct {
	Folder  string   // the folder of all files; created if missing
	Token   string   // the API key of all its caches
	Names   []string // the names of its caches
	Private bool     // reading requires the API key too
	// MinPart is the minimum size of a part in bytes. It does not apply to the last part. The default is
	// that of S3, 5 MiB.
	MinPart int64
	// Kind is the server whose behaviour is imitated. In Iglu Cache nobody can read a Private cache, and
	// MinPart has no effect.
	Kind Kind
	// Root is the beginning of the upload addresses in Iglu Cache, its CACHE_ROOT_DOMAIN. The default is the
	// host in the client's request.
	Root string
}

// defaultMinPart is the minimum of S3 for a part that is not the last, in bytes.
const defaultMinPart = 5 << 20

// A Server is an http.Handler that serves caches.
type Server struct {
	options Options
	routes  *http.ServeMux

	caches  map[string]*cache            // by name
	handler atomic.Pointer[http.Handler] // the routes, wrapped in faults if any are set

	unpackers sync.Pool // of *unpacker
}

// cacheName matches a valid name of a cache: one segment of a file path and of a URL.
var cacheName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)

// New returns a cache on a folder. It serves everything that an earlier cache left in the folder.
func New(options Options) (*Server, error) {
	if options.Token == "" {
		return nil, errors.New("a cache needs an API key")
	}
	if options.MinPart == 0 {
		options.MinPart = defaultMinPart
	}
	s := &Server{options: options, routes: http.NewServeMux(), caches: map[string]*cache{}}
	s.unpackers.New = newUnpacker
	for _, name := range options.Names {
		if !cacheName.MatchString(name) || name == "api" || name == "upload" {
			return nil, fmt.Errorf("invalid name of a cache: %q", name)
		}
		c, err := newCache(name, filepath.Join(options.Folder, name))
		if err != nil {
			return nil, err
		}
		s.caches[name] = c
	}
	s.route()
	s.Misbehave()
	return s, nil
}

// ServeHTTP answers a client of the protocol, or Nix.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*s.handler.Load()).ServeHTTP(w, r)
}

const (
	narInfoFolder = "narinfo"
	narFolder     = "nar"
	uploadFolder  = "uploads"
	keyFile       = "keys"
)

// strictRoutes returns the routes of a strict cache. Other requests get 404.
func (s *Server) strictRoutes() map[string]handler {
	return map[string]handler{
		"GET /api/v1/cache/{name}":                               s.withKey(s.lookUp),
		"POST /api/v1/cache/{name}/key":                          s.withKey(s.register),
		"POST /api/v1/cache/{name}/narinfo":                      s.withKey(s.missing),
		"POST /api/v1/cache/{name}/multipart-nar":                s.withKey(s.begin),
		"POST /api/v1/cache/{name}/multipart-nar/{nar}":          s.withKey(s.partURL),
		"POST /api/v1/cache/{name}/multipart-nar/{nar}/complete": s.withKey(s.complete),
		"POST /api/v1/cache/{name}/multipart-nar/{nar}/abort":    s.withKey(s.abort),
		"PUT /upload/{name}/{nar}/{part}":                        s.putPart,
		"GET /{name}/{file}":                                     s.withReader(s.read),
		"GET /{name}/nar/{file}":                                 s.withReader(s.readNar),
	}
}

func (s *Server) route() {
	routes := s.strictRoutes()
	if s.options.Kind != Strict {
		routes = s.igluRoutes()
		s.routes.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { answerOK(w) })
	}
	for pattern, serve := range routes {
		s.routes.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			c, err := s.cache(r.PathValue("name"))
			if err == nil {
				err = serve(c, w, r)
			}
			if err != nil {
				respond(w, err)
			}
		})
	}
}

// A handler serves one kind of request to a cache. If it returns an error, it has sent no answer.
type handler func(c *cache, w http.ResponseWriter, r *http.Request) error

// A refusal is an error with a message for the client and an HTTP status.
type refusal struct {
	status int
	text   string
	field  string // the JSON field of the message; if empty, the message is sent as plain text
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...), "error"}
}

// bad returns a refusal of a request that is invalid.
func bad(format string, args ...any) error { return refuse(http.StatusBadRequest, format, args...) }

// respond sends an error. An error that is not a refusal is sent as 500.
func respond(w http.ResponseWriter, err error) {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		r = &refusal{http.StatusInternalServerError, err.Error(), "error"}
	}
	if r.field == "" {
		http.Error(w, r.text, r.status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	json.NewEncoder(w).Encode(map[string]string{r.field: r.text})
}

// answer sends JSON.
func answer(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // as caches do not
	encoder.Encode(value)
	return nil
}

// maxBody limits the JSON of a request, in bytes: the longest has 32,768 hashes.
const maxBody = 4 << 20

// decode reads the JSON of a request. Unknown fields are errors.
func decode(r *http.Request, value any) error {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != "application/json" {
		return bad("the Content-Type is %q and not application/json", kind)
	}
	decoder := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		return bad("the request's JSON is invalid: %v", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return bad("something follows the request's JSON")
	}
	return nil
}

// withKey requires the API key.
func (s *Server) withKey(next handler) handler {
	return func(c *cache, w http.ResponseWriter, r *http.Request) error {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			return refuse(http.StatusUnauthorized, "an API key is required: Authorization: Bearer KEY")
		}
		if !s.isToken(token) {
			return refuse(http.StatusForbidden, "the API key is not for the cache %s", c.name)
		}
		return next(c, w, r)
	}
}

// withReader requires the API key if the cache is private: as a bearer token, or as the password that Nix
// takes from a netrc file.
func (s *Server) withReader(next handler) handler {
	return func(c *cache, w http.ResponseWriter, r *http.Request) error {
		_, password, _ := r.BasicAuth()
		bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if s.options.Private && !s.isToken(password) && !s.isToken(bearer) {
			w.Header().Set("WWW-Authenticate", `Basic realm="cache"`)
			return refuse(http.StatusUnauthorized, "the cache %s is private", c.name)
		}
		return next(c, w, r)
	}
}

func (s *Server) isToken(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(s.options.Token)) == 1
}

// A cache is one of the server's caches.
type cache struct {
	name   string
	folder string

	mu      sync.Mutex            // guards the fields below
	keys    []signature.PublicKey // the keys in the file of keys
	uploads map[string]*upload    // by id, without completed and aborted ones
}

// newCache returns the cache in a folder. Unfinished uploads of an earlier process are removed.
func newCache(name, folder string) (*cache, error) {
	c := &cache{name: name, folder: folder, uploads: map[string]*upload{}}
	if err := os.RemoveAll(filepath.Join(folder, uploadFolder)); err != nil {
		return nil, err
	}
	for _, kind := range []string{narInfoFolder, narFolder, uploadFolder} {
		if err := os.MkdirAll(filepath.Join(folder, kind), 0o755); err != nil {
			return nil, err
		}
	}
	return c, c.readKeys()
}

func (s *Server) cache(name string) (*cache, error) {
	if c := s.caches[name]; c != nil {
		return c, nil
	}
	if s.options.Kind != Strict {
		return nil, errNoCache
	}
	return nil, refuse(http.StatusNotFound, "there is no cache %q", name)
}

// Uploads returns how many uploads are neither completed nor aborted.
func (s *Server) Uploads() int {
	n := 0
	for _, c := range s.caches {
		c.mu.Lock()
		n += len(c.uploads)
		c.mu.Unlock()
	}
	return n
}

// lookUp returns the description of the cache. It is an error if the cache has no public key yet.
func (s *Server) lookUp(c *cache, w http.ResponseWriter, r *http.Request) error {
	keys := c.publicKeys()
	if len(keys) == 0 {
		return bad("there is no public signing key for the cache %s", c.name)
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.String()
	}
	return answer(w, map[string]any{
		"name": c.name, "uri": "http://" + r.Host + "/" + c.name, "isPublic": !s.options.Private,
		"publicSigningKeys": names, "githubUsername": "", "permission": "Write",
		"preferredCompressionMethod": "ZSTD",
	})
}

// maxHashes is the number of hashes that the protocol allows in one call.
const maxHashes = 32768

// storeHash is the hash in a store path: 20 bytes in Nix's base32.
var storeHash = regexp.MustCompile(`^[0-9a-df-np-sv-z]{32}$`)

// missing returns those of the given hashes that have not been announced.
func (s *Server) missing(c *cache, w http.ResponseWriter, r *http.Request) error {
	var hashes []string
	if err := decode(r, &hashes); err != nil {
		return err
	}
	if len(hashes) > maxHashes {
		return bad("%d hashes, and at most %d in one call", len(hashes), maxHashes)
	}
	missing := []string{} // not null
	for _, hash := range hashes {
		if !storeHash.MatchString(hash) {
			return bad("%.80q is not the hash of a store path", hash)
		}
		_, err := os.Stat(c.narInfoFile(hash))
		switch {
		case errors.Is(err, os.ErrNotExist):
			missing = append(missing, hash)
		case err != nil:
			return err
		}
	}
	return answer(w, missing)
}

func (c *cache) narInfoFile(hash string) string {
	return filepath.Join(c.folder, narInfoFolder, hash+".narinfo")
}

// read serves the files at the top of a binary cache: nix-cache-info and the narinfos.
func (s *Server) read(c *cache, w http.ResponseWriter, r *http.Request) error {
	file := r.PathValue("file")
	if file == "nix-cache-info" {
		w.Header().Set("Content-Type", "text/x-nix-cache-info")
		_, err := io.WriteString(w, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n")
		return err
	}
	hash, ok := strings.CutSuffix(file, ".narinfo")
	if !ok || !storeHash.MatchString(hash) {
		return refuse(http.StatusNotFound, "there is no %q in a cache", file)
	}
	return serveFile(w, r, c.narInfoFile(hash), "text/x-nix-narinfo")
}

// narFile matches the name of a compressed archive: its SHA-256 in Nix's base32.
var narFile = regexp.MustCompile(`^[0-9a-df-np-sv-z]{52}\.nar\.zst$`)

func (s *Server) readNar(c *cache, w http.ResponseWriter, r *http.Request) error {
	file := r.PathValue("file")
	if !narFile.MatchString(file) {
		return refuse(http.StatusNotFound, "there is no archive %q", file)
	}
	return serveFile(w, r, filepath.Join(c.folder, narFolder, file), "application/x-nix-nar")
}

func serveFile(w http.ResponseWriter, r *http.Request, path, contentType string) error {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return refuse(http.StatusNotFound, "the cache does not have it")
	}
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	http.ServeContent(w, r, "", info.ModTime(), file)
	return nil
}
