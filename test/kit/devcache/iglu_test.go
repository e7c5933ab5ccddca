package devcache

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A service is a server of a kind with two caches, for tests that send requests to it directly.
type service struct {
	*fixture
	kind Kind
}

func newService(t *testing.T, kind Kind) *service {
	s := &service{&fixture{t: t, folder: t.TempDir()}, kind}
	_, s.private, _ = ed25519.GenerateKey(nil)
	s.restart()
	return s
}

// restart starts the cache again on its folder, as after a crash.
func (s *service) restart() {
	s.t.Helper()
	var err error
	if s.cache, err = New(Options{Folder: s.folder, Token: token, Names: []string{"default", "second"}, Kind: s.kind}); err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewServer(s.cache)
	s.t.Cleanup(server.Close)
	s.url = server.URL
}

func (s *service) register(key ed25519.PublicKey) string {
	s.t.Helper()
	text := base64.StdEncoding.EncodeToString(key)
	body, _ := json.Marshal(map[string]string{"publicKey": text})
	if status, answer, _ := s.do("POST", "/api/v1/cache/default/key", body); status != 200 {
		s.t.Fatalf("register: %d %s", status, answer)
	}
	return text
}

// send sends the parts of an upload to one cache and returns the request that completes the upload.
func (s *service) send(name string, p *push) (complete func(numbers ...int) (int, string)) {
	s.t.Helper()
	base := "/api/v1/cache/" + name + "/multipart-nar"
	_, answer, _ := s.do("POST", base+"?compression=zst", nil)
	var ids struct{ NarID, UploadID string }
	if err := json.Unmarshal(answer, &ids); err != nil {
		s.t.Fatal(err)
	}
	for i, part := range p.parts {
		_, answer, _ := s.do("POST", fmt.Sprintf("%s/%s?uploadId=%s&partNumber=%d", base, ids.NarID, ids.UploadID, i+1), []byte(`{"contentMD5":"of/no+concern"}`))
		var place struct{ UploadURL string }
		if err := json.Unmarshal(answer, &place); err != nil || !strings.Contains(place.UploadURL, token) {
			s.t.Fatalf("upload URL %s: %v", answer, err)
		}
		status, text, header := s.do("PUT", place.UploadURL, part, "Content-Type", "application/octet-stream")
		if status != 200 || string(text) != "OK" || header.Get("ETag") != igluETag {
			s.t.Fatalf("part %d: %d %s, ETag %s", i+1, status, text, header.Get("ETag"))
		}
	}
	return func(numbers ...int) (int, string) {
		var parts []map[string]any
		for _, number := range numbers {
			parts = append(parts, map[string]any{"partNumber": number, "eTag": igluETag})
		}
		body, _ := json.Marshal(map[string]any{"parts": parts, "narInfoCreate": p.announce})
		status, text, _ := s.do("POST", base+"/"+ids.NarID+"/complete?uploadId="+ids.UploadID, body)
		return status, string(text)
	}
}

func (s *service) want(wantStatus int, wantText, method, address string) {
	s.t.Helper()
	status, text, _ := s.do(method, address, nil, "Authorization", "")
	if status != wantStatus || !strings.Contains(string(text), wantText) {
		s.t.Errorf("%s %s: %d %q, want %d %q", method, address, status, text, wantStatus, wantText)
	}
}

// eachIglu runs a test with both kinds of Iglu Cache.
func eachIglu(t *testing.T, test func(t *testing.T, s *service)) {
	for _, kind := range []Kind{Standalone, Monorepo} {
		t.Run(kind.String(), func(t *testing.T) { test(t, newService(t, kind)) })
	}
}

// The description of each kind of cache, with its JSON types, and the effect of registering a second key.
func TestIgluLookUp(t *testing.T) {
	eachIglu(t, func(t *testing.T, s *service) {
		if status, text, _ := s.do("GET", "/api/v1/cache/default", nil); status != 400 || !bytes.HasPrefix(text, []byte("There is no public signing key for this cache")) {
			t.Errorf("without a key: %d %s", status, text)
		}
		first := s.register(s.private.Public().(ed25519.PublicKey))
		other, _, _ := ed25519.GenerateKey(nil)
		second := s.register(other)
		want := map[Kind]string{
			Standalone: `{"githubUsername":"","isPublic":true,"name":"default","permission":"Read","preferredCompressionMethod":"XZ",` +
				`"publicSigningKeys":["<empty>","default:` + second + `"],"uri":"` + s.url + `"}`,
			Monorepo: `{"githubUsername":"","isPublic":"true","name":"default","permission":"Read","preferredCompressionMethod":"XZ","priority":40,` +
				`"publicSigningKeys":["<empty>","` + first + `","` + second + `"],"uri":"` + s.url + `/default"}`,
		}[s.kind]
		if _, text, _ := s.do("GET", "/api/v1/cache/default", nil); strings.TrimSpace(string(text)) != want {
			t.Errorf("got  %s\nwant %s", text, want)
		}
		if err := s.cache.AddKey("second", second); err != nil {
			t.Fatal(err)
		}
		if _, text, _ := s.do("GET", "/api/v1/cache/second", nil); !bytes.Contains(text, []byte(`"permission":""`)) {
			t.Errorf("a cache that the controller makes: %s", text)
		}
	})
}

// Requests without permission, and requests for what does not exist.
func TestIgluRefuses(t *testing.T) {
	eachIglu(t, func(t *testing.T, s *service) {
		s.want(403, `{"message":"Forbidden"}`, "GET", "/api/v1/cache/default")
		s.want(404, `{"message":"Cache Not Found"}`, "GET", "/api/v1/cache/third")
		s.want(200, "OK", "GET", "/no/such/route")
		s.want(200, "OK", "DELETE", "/api/v1/cache/default")
		s.want(200, "", "HEAD", "/default/"+hash+".narinfo")
		s.want(404, "404", "GET", "/default/"+hash+".narinfo")
		s.want(404, "Derivation not found", "GET", "/default/nar/"+hash)
		s.want(200, "StoreDir: /nix/store", "GET", "/default/nix-cache-info")
	})
}

// A valid path can be downloaded. Whether it counts as missing depends on the kind of cache.
func TestIgluPush(t *testing.T) {
	eachIglu(t, func(t *testing.T, s *service) {
		p := s.newPush()
		p.sign(p.announce)
		p.announce["cReferences"] = []string{}
		if status, text := s.send("default", p)(1, 2, 3); status != 200 || text != "{}\n" && text != "" {
			t.Fatalf("%d %s", status, text)
		}
		s.want(200, "URL: nar/"+hash+"\nCompression: zstd\nFileHash: sha256:"+p.announce["cFileHash"].(string)+"\n", "GET", "/default/"+hash+".narinfo")
		s.want(200, "References: \nDeriver: unknown-deriver\nSig: default:"+p.announce["cSig"].(string)+"\n", "GET", "/default/"+hash+".narinfo")
		_, file, _ := s.do("GET", "/default/nar/"+hash, nil, "Authorization", "")
		if !bytes.Equal(file, bytes.Join(p.parts, nil)) {
			t.Error("the archive differs")
		}
		missing := map[Kind]string{Standalone: "[]", Monorepo: `["` + hash + `"]`}[s.kind]
		if _, text, _ := s.do("POST", "/api/v1/cache/default/narinfo", []byte(`["`+hash+`"]`)); strings.TrimSpace(string(text)) != missing {
			t.Errorf("missing: %s, want %s", text, missing)
		}
		if _, text, _ := s.do("POST", "/api/v1/cache/default/narinfo", []byte(`["`+p.announce["cNarHash"].(string)+`"]`)); (s.kind == Monorepo) != (strings.TrimSpace(string(text)) == "[]") {
			t.Errorf("missing of a NAR's hash: %s", text)
		}
	})
}

// The signature and the size of a part are not checked. The file's SHA-256 is checked, with the parts in the
// order of the list.
func TestIgluChecksLittle(t *testing.T) {
	eachIglu(t, func(t *testing.T, s *service) {
		p := s.newPush()
		if status, text := s.send("default", p)(1, 3, 2); status != 400 || !strings.Contains(text, "File hash does not match") {
			t.Errorf("in another order: %d %s", status, text)
		}
		delete(p.announce, "cFileHash")
		if status, text := s.send("default", p)(1, 2, 3); status != 400 || !strings.Contains(text, "Invalid narInfoCreate object") {
			t.Errorf("without a file's hash: %d %s", status, text)
		}
		p = s.newPush()
		p.announce["cSig"] = nil
		if status, text := s.send("default", p)(1, 2, 3); status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		s.want(200, "\nSig: default:null\n", "GET", "/default/"+hash+".narinfo")
		p.announce["cSig"] = "nonsense"
		if status, text := s.send("default", p)(1, 2, 3); status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		shown := map[Kind]string{Standalone: "nonsense", Monorepo: "null"}[s.kind] // the monorepo returns the first of two rows
		s.want(200, "\nSig: default:"+shown+"\n", "GET", "/default/"+hash+".narinfo")
	})
}

// The parts of an upload are lost at a restart, but its id stays valid.
func TestIgluRestart(t *testing.T) {
	eachIglu(t, func(t *testing.T, s *service) {
		p := s.newPush()
		complete := s.send("default", p)
		s.restart()
		for range 2 {
			if status, text := complete(1, 2, 3); status != 400 || strings.TrimSpace(text) != `{"error":"Part file does not exist"}` {
				t.Errorf("%d %s", status, text)
			}
		}
		if status, text := s.send("default", p)(1, 2, 3); status != 200 {
			t.Errorf("anew: %d %s", status, text)
		}
	})
}

// The monorepo's server keeps a narinfo without a NAR if another of its caches has the path.
func TestIgluSecondCache(t *testing.T) {
	eachIglu(t, func(t *testing.T, s *service) {
		for _, name := range []string{"default", "second"} {
			if status, text := s.send(name, s.newPush())(1, 2, 3); status != 200 {
				t.Fatalf("%s: %d %s", name, status, text)
			}
		}
		s.want(200, "StorePath", "GET", "/second/"+hash+".narinfo")
		s.want(200, "", "GET", "/default/nar/"+hash)
		s.want(map[Kind]int{Standalone: 200, Monorepo: 404}[s.kind], "", "GET", "/second/nar/"+hash)
	})
}

// An abort is never answered; the client gives up.
func TestIgluAbort(t *testing.T) {
	eachIglu(t, func(t *testing.T, s *service) {
		client := &http.Client{Timeout: 50 * time.Millisecond}
		defer client.CloseIdleConnections()
		response, err := client.Post(s.url+begin+"/1/abort?uploadId=1", "application/json", nil)
		if err == nil {
			response.Body.Close()
			t.Error("it was answered:", response.Status)
		}
	})
}

// A server that loses its database first answers that its caches do not exist, and then crashes.
func TestDatabaseGone(t *testing.T) {
	eachIglu(t, func(t *testing.T, s *service) {
		var died atomic.Int64
		s.cache.Misbehave(DatabaseGone(2, func() { died.Add(1) }))
		for range 2 {
			s.want(404, "Cache Not Found", "GET", "/api/v1/cache/default")
		}
		for range 2 {
			if response, err := http.Get(s.url + "/api/v1/cache/default"); err == nil {
				response.Body.Close()
				t.Error("it was answered:", response.Status)
			}
		}
		http.DefaultClient.CloseIdleConnections()
		if n := died.Load(); n != 1 {
			t.Errorf("it crashed %d times", n)
		}
	})
}

func TestParseKind(t *testing.T) {
	for _, kind := range Kinds() {
		if got, err := ParseKind(kind.String()); got != kind || err != nil {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
	}
	if _, err := ParseKind("cachix"); err == nil {
		t.Error("no error")
	}
}
