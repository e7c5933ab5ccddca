package devcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// A Kind is the server whose behaviour a Server imitates.
type Kind string

// The kinds of cache. The last two are Iglu Cache: the server in its own repository (2025-12-01), and the
// server in the Iglu monorepo (2025-12-14). Their behaviour was observed and is imitated with its mistakes:
//
//   - both answer "permission": "Read" for the cache named default even if the key may write, and "" for
//     other caches; isPublic is a boolean in one and a string in the other; the list of keys contains
//     "<empty>";
//   - the monorepo compares the store hashes in a request with NAR hashes, so that it reports every path
//     as missing;
//   - the monorepo does not keep the archive of a path that another of its caches has: it then has a
//     narinfo without a NAR;
//   - the state of an upload is only its files, and those are deleted at the start. An upload that spans a
//     restart ends with 400 "Part file does not exist";
//   - the monorepo adds the keys that a client registers; the other server replaces its key;
//   - the address of an upload contains the API key;
//   - neither checks a signature, an MD5 or the size of a part; parts are joined in the order of the
//     completion's list;
//   - both read only 100 KiB of JSON, and answer 413 to more;
//   - without a signature, the narinfo has Sig: NAME:null;
//   - abort never answers, an unknown route answers 200, and so does HEAD of a narinfo.
const (
	Strict     Kind = ""
	Standalone Kind = "standalone"
	Monorepo   Kind = "monorepo"
)

// Kinds returns all kinds of cache.
func Kinds() []Kind { return []Kind{Strict, Standalone, Monorepo} }

// String returns the kind's name, as used in flags.
func (k Kind) String() string {
	if k == Strict {
		return "strict"
	}
	return string(k)
}

// ParseKind reads what String returns.
func ParseKind(text string) (Kind, error) {
	for _, kind := range Kinds() {
		if kind.String() == text {
			return kind, nil
		}
	}
	return Strict, fmt.Errorf("unknown kind of cache %q: use strict, standalone or monorepo", text)
}

// igluRoutes returns the routes of Iglu Cache. Other requests get 200.
func (s *Server) igluRoutes() map[string]handler {
	return map[string]handler{
		"GET /api/v1/cache/{name}":                               s.igluKey(s.igluLookUp),
		"POST /api/v1/cache/{name}/key":                          s.igluKey(s.igluRegister),
		"POST /api/v1/cache/{name}/narinfo":                      s.igluKey(s.igluMissing),
		"POST /api/v1/cache/{name}/multipart-nar":                s.igluKey(s.igluBegin),
		"POST /api/v1/cache/{name}/multipart-nar/{nar}":          s.igluKey(s.igluPartURL),
		"POST /api/v1/cache/{name}/multipart-nar/{nar}/complete": s.igluKey(s.igluComplete),
		"POST /api/v1/cache/{name}/multipart-nar/{nar}/abort":    igluAbort,
		"PUT /upload/{name}/{nar}":                               s.igluKey(s.igluPut),
		"GET /{name}/{file}":                                     s.igluRead,
		"GET /{name}/nar/{file}":                                 s.igluReadNar,
	}
}

// message returns an error in the JSON format of Iglu Cache's check of API keys.
func message(status int, text string) error { return &refusal{status, text, "message"} }

// errNoCache is the answer of Iglu Cache if its database has no such cache, or if it cannot reach its
// database.
var errNoCache = message(http.StatusNotFound, "Cache Not Found")

// igluKey requires the API key: in the header, or for an upload in the query.
func (s *Server) igluKey(next handler) handler {
	return func(c *cache, w http.ResponseWriter, r *http.Request) error {
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if token == "" {
			token = igluToken(r)
		}
		if !s.isToken(token) {
			return message(http.StatusForbidden, "Forbidden")
		}
		return next(c, w, r)
	}
}

// igluToken returns the API key in the address of an upload. The address has no escapes.
func igluToken(r *http.Request) string {
	_, token, _ := strings.Cut(r.URL.RawQuery, "&token=")
	if i := strings.LastIndex(token, "&part="); i >= 0 {
		token = token[:i]
	}
	return token
}

func (s *Server) igluLookUp(c *cache, w http.ResponseWriter, r *http.Request) error {
	keys := []string{"<empty>"}
	for _, key := range c.publicKeys() {
		if text := key.String(); s.options.Kind == Standalone {
			keys = append(keys, text)
		} else {
			keys = append(keys, text[strings.IndexByte(text, ':')+1:])
		}
	}
	if len(keys) == 1 {
		return &refusal{status: http.StatusBadRequest, field: "",
			text: "There is no public signing key for this cache, add one by using cachix generate-keypair " + c.name}
	}
	permission := ""
	if c.name == "default" {
		permission = "Read"
	}
	description := map[string]any{"name": c.name, "uri": s.root(r), "isPublic": !s.options.Private,
		"publicSigningKeys": keys, "githubUsername": "", "permission": permission, "preferredCompressionMethod": "XZ"}
	if s.options.Kind == Monorepo {
		description["uri"] = s.root(r) + "/" + c.name
		description["isPublic"] = strconv.FormatBool(!s.options.Private)
		description["priority"] = 40
	}
	return answer(w, description)
}

// root returns the server's URL for use in its answers.
func (s *Server) root(r *http.Request) string {
	if s.options.Root != "" {
		return s.options.Root
	}
	return "http://" + r.Host
}

func (s *Server) igluRegister(c *cache, w http.ResponseWriter, r *http.Request) error {
	var request struct {
		PublicKey string `json:"publicKey"`
	}
	if json.NewDecoder(r.Body).Decode(&request) != nil || request.PublicKey == "" {
		return bad("Missing publicKey object")
	}
	if s.options.Kind == Standalone {
		if err := c.dropKeys(); err != nil {
			return err
		}
	}
	if err := c.addKey(request.PublicKey); err != nil {
		return err
	}
	return answer(w, map[string]string{"message": "Public key added successfully"})
}

// maxIgluBody is how many bytes of JSON Iglu Cache reads: the default of Express.
const maxIgluBody = 100 << 10

// igluDecode reads the JSON of a request.
func igluDecode(r *http.Request, value any) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxIgluBody+1))
	switch {
	case err != nil:
		return err
	case len(text) > maxIgluBody:
		return refuse(http.StatusRequestEntityTooLarge, "request entity too large")
	case json.Unmarshal(text, value) != nil:
		return bad("Invalid request")
	}
	return nil
}

// igluMissing returns those of the given hashes that the cache does not have. They are hashes of store paths,
// but the monorepo takes them as hashes of NARs.
func (s *Server) igluMissing(c *cache, w http.ResponseWriter, r *http.Request) error {
	var hashes []string
	if err := igluDecode(r, &hashes); err != nil {
		return err
	}
	has := c.hasPath
	if s.options.Kind == Monorepo {
		nars, err := c.narHashes()
		if err != nil {
			return err
		}
		has = func(hash string) bool { return nars[hash] }
	}
	missing := []string{}
	for _, hash := range hashes {
		if !has(hash) {
			missing = append(missing, hash)
		}
	}
	return answer(w, missing)
}

func (c *cache) hasPath(hash string) bool {
	_, err := os.Stat(c.narInfoFile(filepath.Base(hash)))
	return err == nil
}

var narHashLine = regexp.MustCompile(`(?m)^NarHash: (\S+)$`)

func (c *cache) narHashes() (map[string]bool, error) {
	files, err := filepath.Glob(c.narInfoFile("*"))
	hashes := map[string]bool{}
	for _, file := range files {
		text, readErr := os.ReadFile(file)
		err = errors.Join(err, readErr)
		if hash := narHashLine.FindSubmatch(text); hash != nil {
			hashes[string(hash[1])] = true
		}
	}
	return hashes, err
}

// igluBegin starts an upload. It keeps no state, because the id contains the compression.
func (s *Server) igluBegin(c *cache, w http.ResponseWriter, r *http.Request) error {
	id := "0" + uuid()[1:]
	if r.URL.Query().Get("compression") == "zst" {
		id = "1" + id[1:]
	}
	return answer(w, map[string]string{"narId": id, "uploadId": id})
}

func (s *Server) igluPartURL(c *cache, w http.ResponseWriter, r *http.Request) error {
	var request struct {
		ContentMD5 string `json:"contentMD5"`
	}
	if json.NewDecoder(r.Body).Decode(&request) != nil {
		return bad("Invalid request")
	}
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return answer(w, map[string]string{"uploadUrl": fmt.Sprintf("%s/upload/%s/%s?md5=%s&token=%s&part=%s",
		s.root(r), c.name, r.PathValue("nar"), request.ContentMD5, token, r.URL.Query().Get("partNumber"))})
}

// igluFile returns the file of an upload's part, or of the whole upload if part is "".
func (c *cache) igluFile(r *http.Request, part string) (string, error) {
	id := r.PathValue("nar")
	if !narID.MatchString(id) || id[0] != '0' && id[0] != '1' {
		return "", bad("Invalid uid")
	}
	return filepath.Join(c.folder, uploadFolder, id+".nar."+filepath.Base(part)), nil
}

// igluETag is the ETag of the answer to every part. The answer's body is "OK".
const igluETag = `W/"2-nOO9QiTIwXgNtWtBJezz8kv3SLc"`

// igluPut receives a part. It does not check the bytes.
func (s *Server) igluPut(c *cache, w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if query.Get("md5") == "" || query.Get("part") == "" || r.Header.Get("Content-Type") != "application/octet-stream" {
		return bad("Missing md5 hash")
	}
	name, err := c.igluFile(r, query.Get("part"))
	if err != nil {
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = copyAll(file, r.Body, r.ContentLength)
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(bad("Request was aborted"), os.Remove(name))
	}
	w.Header().Set("ETag", igluETag)
	_, err = io.WriteString(w, "OK")
	return err
}

// igluCompletion has the fields of a completion that Iglu Cache reads. It ignores other fields and accepts
// missing ones.
type igluCompletion struct {
	Parts []struct {
		Number int    `json:"partNumber"`
		ETag   string `json:"eTag"`
	} `json:"parts"`
	NarInfo *struct {
		StoreHash   string   `json:"cStoreHash"`
		StoreSuffix string   `json:"cStoreSuffix"`
		NarHash     string   `json:"cNarHash"`
		NarSize     int64    `json:"cNarSize"`
		FileHash    string   `json:"cFileHash"`
		FileSize    int64    `json:"cFileSize"`
		References  []string `json:"cReferences"`
		Deriver     string   `json:"cDeriver"`
		Signature   any      `json:"cSig"`
	} `json:"narInfoCreate"`
}

func (s *Server) igluComplete(c *cache, w http.ResponseWriter, r *http.Request) error {
	var request igluCompletion
	if err := igluDecode(r, &request); err != nil {
		return err
	}
	n := request.NarInfo
	switch {
	case n == nil:
		return bad("Missing narInfoCreate object")
	case request.Parts == nil:
		return bad("Missing parts array")
	case n.Deriver == "" || n.FileHash == "" || n.FileSize == 0 || n.NarHash == "" || n.NarSize == 0 ||
		n.References == nil || n.StoreHash == "" || n.StoreSuffix == "":
		return bad("Invalid narInfoCreate object")
	case !storeHash.MatchString(n.StoreHash): // the hash becomes the name of a file
		return bad("Invalid narInfoCreate object")
	}
	whole, err := c.igluJoin(r, request)
	if err != nil {
		return err
	}
	if sum, err := fileSum(whole); err != nil {
		return err
	} else if sum != n.FileHash {
		return bad("File hash does not match")
	}
	signature := "null"
	if text, ok := n.Signature.(string); ok {
		signature = text
	}
	compression := "xz"
	if r.PathValue("nar")[0] == '1' {
		compression = "zstd"
	}
	text := fmt.Sprintf("StorePath: /nix/store/%s-%s\nURL: nar/%s\nCompression: %s\nFileHash: sha256:%s\nFileSize: %d\n"+
		"NarHash: %s\nNarSize: %d\nReferences: %s\nDeriver: %s\nSig: %s:%s\n",
		n.StoreHash, n.StoreSuffix, n.StoreHash, compression, n.FileHash, n.FileSize,
		n.NarHash, n.NarSize, strings.Join(n.References, " "), n.Deriver, c.name, signature)
	return s.igluAnnounce(c, n.StoreHash, whole, text)
}

// igluJoin joins an upload's parts to one file, in the order of the list. It deletes each part that it has
// joined, even if a later part is missing.
func (c *cache) igluJoin(r *http.Request, request igluCompletion) (string, error) {
	whole, err := c.igluFile(r, "whole")
	if err != nil {
		return "", err
	}
	file, err := os.OpenFile(whole, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for _, part := range request.Parts {
		if part.ETag == "" || part.Number == 0 {
			return "", bad("Invalid part object")
		}
		name, err := c.igluFile(r, strconv.Itoa(part.Number))
		if err != nil {
			return "", err
		}
		content, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			return "", bad("Part file does not exist")
		}
		if err != nil {
			return "", err
		}
		_, err = copyAll(file, content, copyBuffer)
		if err := errors.Join(err, content.Close(), os.Remove(name)); err != nil {
			return "", err
		}
	}
	return whole, file.Close()
}

func fileSum(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := copyAll(sum, file, copyBuffer); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// igluAnnounce stores an archive and its narinfo. If a path is announced twice, the monorepo keeps the first
// narinfo. It does not keep the archive of a path that another of its caches has.
func (s *Server) igluAnnounce(c *cache, hash, file, narInfo string) error {
	if s.options.Kind == Monorepo && s.hasElsewhere(c, hash) {
		if err := os.Remove(file); err != nil {
			return err
		}
	} else if err := os.Rename(file, filepath.Join(c.folder, narFolder, hash)); err != nil {
		return err
	}
	if s.options.Kind == Monorepo && c.hasPath(hash) {
		return nil
	}
	draft, err := c.create()
	if err != nil {
		return err
	}
	_, err = io.WriteString(draft, narInfo)
	return errors.Join(err, draft.Close(), os.Rename(draft.Name(), c.narInfoFile(hash)))
}

func (s *Server) hasElsewhere(here *cache, hash string) bool {
	for _, c := range s.caches {
		if c != here && c.hasPath(hash) {
			return true
		}
	}
	return false
}

// igluAbort reads a request, does nothing, and never answers.
func igluAbort(_ *cache, w http.ResponseWriter, r *http.Request) error {
	Hang()(nil).ServeHTTP(w, r)
	return nil
}

func (s *Server) igluRead(c *cache, w http.ResponseWriter, r *http.Request) error {
	file := r.PathValue("file")
	hash, isNarInfo := strings.CutSuffix(file, ".narinfo")
	switch {
	case file == "nix-cache-info":
		_, err := io.WriteString(w, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n")
		return err
	case !isNarInfo:
		return answerOK(w)
	case r.Method == http.MethodHead:
		return answerOK(w)
	case s.options.Private:
		return bad("Cache not allowed")
	}
	text, err := os.ReadFile(c.narInfoFile(hash))
	if err != nil {
		return &refusal{status: http.StatusNotFound, text: "404"}
	}
	w.Header().Set("Content-Type", "text/x-nix-narinfo")
	_, err = io.Copy(w, bytes.NewReader(text))
	return err
}

func (s *Server) igluReadNar(c *cache, w http.ResponseWriter, r *http.Request) error {
	name := filepath.Join(c.folder, narFolder, r.PathValue("file"))
	if _, err := os.Stat(name); err != nil {
		return refuse(http.StatusNotFound, "Derivation not found")
	}
	return serveFile(w, r, name, "application/octet-stream")
}

// answerOK is the answer of Iglu Cache to an unknown request.
func answerOK(w http.ResponseWriter) error {
	_, err := io.WriteString(w, "OK")
	return err
}
