package devcache

import (
	"bytes"
	"crypto/ed25519"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/wire"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token    = "a-token"
	testPart = 1000 // the minimum size of a part in these tests, in bytes
	hash     = "0123456789abcdfghijklmnpqrsvwxyz"
	other    = "00000000000000000000000000000000"
)

// A fixture is a cache to which a test sends requests directly.
type fixture struct {
	t       *testing.T
	url     string
	folder  string
	private ed25519.PrivateKey
	cache   *Server
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	w := &fixture{t: t, folder: t.TempDir()}
	_, w.private, _ = ed25519.GenerateKey(nil)
	w.start()
	if err := w.cache.AddKey("default", "somebody:"+base64.StdEncoding.EncodeToString(w.private[32:])); err != nil {
		t.Fatal(err)
	}
	return w
}

// start starts a cache on the fixture's folder. A second call is a restart.
func (w *fixture) start() {
	w.t.Helper()
	var err error
	w.cache, err = New(Options{Folder: w.folder, Token: token, Names: []string{"default"}, MinPart: testPart})
	if err != nil {
		w.t.Fatal(err)
	}
	server := httptest.NewServer(w.cache)
	w.t.Cleanup(server.Close)
	w.url = server.URL
}

// do sends a request with the API key and returns the answer's status and body.
func (w *fixture) do(method, address string, body []byte, header ...string) (int, []byte, http.Header) {
	w.t.Helper()
	if strings.HasPrefix(address, "/") {
		address = w.url + address
	}
	request, err := http.NewRequest(method, address, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if method == "POST" {
		request.Header.Set("Content-Type", "application/json")
	}
	if method != "PUT" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			request.Header.Del(header[i])
		}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response.StatusCode, text, response.Header
}

// archive returns a Nix archive of one file.
func archive(content string) []byte {
	var b bytes.Buffer
	for _, text := range []string{"nix-archive-1", "(", "type", "regular", "contents", content, ")"} {
		wire.WriteString(&b, text)
	}
	return b.Bytes()
}

func compress(archive []byte) []byte {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return encoder.EncodeAll(archive, nil)
}

// A push has the requests that a client is about to send. They are valid unless a test changes them.
type push struct {
	parts    [][]byte
	numbers  []int                         // of the parts in the completion
	announce map[string]any                // narInfoCreate
	request  func(complete map[string]any) // changes the completion
	sign     func(announce map[string]any) // signs what is announced
	put      func(address string, h []string) (string, []string)

	completing string // the address to complete it at, once its parts are sent
}

func (w *fixture) newPush() *push {
	content := strings.Builder{}
	for i := range 1200 {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		content.Write(sum[:])
	}
	nar := archive(content.String())
	p := w.pushOf(nar, compress(nar))
	file := p.parts[0]
	p.parts = [][]byte{file[:testPart], file[testPart : 2*testPart+7], file[2*testPart+7:]}
	p.numbers = []int{1, 2, 3}
	return p
}

// pushOf returns a push of a file in one part.
func (w *fixture) pushOf(nar, file []byte) *push {
	narSum, fileSum := sha256.Sum256(nar), sha256.Sum256(file)
	p := &push{parts: [][]byte{file}, numbers: []int{1}, announce: map[string]any{
		"cStoreHash": hash, "cStoreSuffix": "name-1.0",
		"cNarHash": "sha256:" + nixbase32.EncodeToString(narSum[:]), "cNarSize": len(nar),
		"cFileHash": hex.EncodeToString(fileSum[:]), "cFileSize": len(file),
		"cReferences": []string{other + "-lib", hash + "-name-1.0"}, "cDeriver": "unknown-deriver",
	}}
	p.sign = func(a map[string]any) {
		var references []string
		list, _ := a["cReferences"].([]string)
		for _, r := range list {
			references = append(references, "/nix/store/"+r)
		}
		text := fmt.Sprintf("1;/nix/store/%s-%s;%s;%d;%s", a["cStoreHash"], a["cStoreSuffix"], a["cNarHash"], a["cNarSize"], strings.Join(references, ","))
		a["cSig"] = base64.StdEncoding.EncodeToString(ed25519.Sign(w.private, []byte(text)))
	}
	return p
}

const begin = "/api/v1/cache/default/multipart-nar"

// run sends the push and returns the first answer that is not 200, or the last answer.
func (w *fixture) run(p *push) (int, string) {
	w.t.Helper()
	status, body, _ := w.do("POST", begin+"?compression=zst", nil)
	var ids struct{ NarID, UploadID string }
	if json.Unmarshal(body, &ids) != nil || status != 200 {
		return status, string(body)
	}
	about := func(action, more string) string {
		return begin + "/" + ids.NarID + action + "?uploadId=" + url.QueryEscape(ids.UploadID) + more
	}
	var parts []map[string]any
	for i, part := range p.parts {
		eTag, status, text := w.sendPart(p, about("", fmt.Sprintf("&partNumber=%d", i+1)), part)
		if status != 200 {
			return status, text
		}
		parts = append(parts, map[string]any{"partNumber": 0, "eTag": eTag})
	}
	var listed []map[string]any
	for _, number := range p.numbers {
		eTag := parts[min(number, len(parts))-1]["eTag"]
		listed = append(listed, map[string]any{"partNumber": number, "eTag": eTag})
	}
	if p.sign != nil {
		p.sign(p.announce)
	}
	p.completing = about("/complete", "")
	complete := map[string]any{"parts": listed, "narInfoCreate": p.announce}
	if p.request != nil {
		p.request(complete)
	}
	text, _ := json.Marshal(complete)
	status, body, _ = w.do("POST", p.completing, text)
	return status, string(body)
}

func (w *fixture) sendPart(p *push, address string, part []byte) (eTag string, status int, text string) {
	w.t.Helper()
	sum := md5.Sum(part)
	contentMD5 := base64.StdEncoding.EncodeToString(sum[:])
	request, _ := json.Marshal(map[string]string{"contentMD5": contentMD5})
	status, body, _ := w.do("POST", address, request)
	var answer struct{ UploadURL string }
	if json.Unmarshal(body, &answer) != nil || status != 200 {
		return "", status, string(body)
	}
	header := []string{"Content-Type", "application/octet-stream", "Content-MD5", contentMD5}
	if p.put != nil {
		answer.UploadURL, header = p.put(answer.UploadURL, header)
	}
	status, body, h := w.do("PUT", answer.UploadURL, part, header...)
	return h.Get("ETag"), status, string(body)
}

// announced reports whether Nix can see the path.
func (w *fixture) announced() bool {
	w.t.Helper()
	status, _, _ := w.do("GET", "/default/"+hash+".narinfo", nil, "Authorization", "")
	_, err := os.Stat(filepath.Join(w.folder, "default/narinfo", hash+".narinfo"))
	if (status == 200) != (err == nil) {
		w.t.Errorf("the narinfo is answered with %d, and its file with %v", status, err)
	}
	return status == 200
}

func TestPush(t *testing.T) {
	w := newFixture(t)
	p := w.newPush()
	p.announce["cDeriver"] = other + "-name-1.0.drv"
	if status, text := w.run(p); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	w.checkLeft()
	w.start() // a restart, so that the answers below are read from the folder
	if !w.announced() {
		t.Fatal("the path is not announced")
	}
	_, text, header := w.do("GET", "/default/"+hash+".narinfo", nil, "Authorization", "")
	fileSum, _ := hex.DecodeString(p.announce["cFileHash"].(string))
	encoded := nixbase32.EncodeToString(fileSum)
	want := fmt.Sprintf(`StorePath: /nix/store/%[1]s-name-1.0
URL: nar/%[2]s.nar.zst
Compression: zstd
FileHash: sha256:%[2]s
FileSize: %[3]d
NarHash: %[4]s
NarSize: %[5]d
References: %[6]s-lib %[1]s-name-1.0
Deriver: %[6]s-name-1.0.drv
Sig: default:%[7]s
`, hash, encoded, p.announce["cFileSize"], p.announce["cNarHash"], p.announce["cNarSize"], other, p.announce["cSig"])
	if string(text) != want || header.Get("Content-Type") != "text/x-nix-narinfo" {
		t.Errorf("got %s\n%s\nwant\n%s", header.Get("Content-Type"), text, want)
	}
	_, file, _ := w.do("GET", "/default/nar/"+encoded+".nar.zst", nil, "Authorization", "")
	if !bytes.Equal(file, bytes.Join(p.parts, nil)) {
		t.Error("the file that Nix gets is not the one that was pushed")
	}
	_, text, _ = w.do("GET", "/default/nix-cache-info", nil)
	if !strings.Contains(string(text), "StoreDir: /nix/store\n") {
		t.Errorf("nix-cache-info: %s", text)
	}
	_, text, _ = w.do("POST", "/api/v1/cache/default/narinfo", []byte(`["`+hash+`","`+other+`"]`))
	if strings.TrimSpace(string(text)) != `["`+other+`"]` {
		t.Errorf("missing: %s", text)
	}
}

// checkLeft checks that no upload has left anything.
func (w *fixture) checkLeft() {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.folder, "default/uploads"))
	if n := w.cache.Uploads(); n != 0 || len(entries) > 0 || err != nil {
		w.t.Errorf("%d uploads are left, and the files %v (%v)", n, entries, err)
	}
}

// An invalid push is refused with a message that says what is wrong, and nothing is announced.
func TestStrict(t *testing.T) {
	good := archive("content")
	badArchive := append(bytes.Clone(good[:len(good)-8]), "!\x00\x00\x00\x00\x00\x00\x00"...)
	set := func(name string, value any) func(*fixture, *push) {
		return func(_ *fixture, p *push) { p.announce[name] = value }
	}
	header := func(i int, value string) func(*fixture, *push) {
		return func(_ *fixture, p *push) {
			p.put = func(address string, h []string) (string, []string) {
				h[i] = value
				return address, h
			}
		}
	}
	address := func(change func(string) string) func(*fixture, *push) {
		return func(_ *fixture, p *push) {
			p.put = func(address string, h []string) (string, []string) { return change(address), h }
		}
	}
	for name, test := range map[string]struct {
		change func(*fixture, *push)
		want   string
	}{
		"first part missing": {func(_ *fixture, p *push) { p.numbers = []int{2, 3} }, "2 parts are listed, and 3"},
		"last part missing":  {func(_ *fixture, p *push) { p.numbers = []int{1, 2} }, "2 parts are listed, and 3"},
		"parts in disorder":  {func(_ *fixture, p *push) { p.numbers = []int{2, 1, 3} }, "part 2 is listed where part 1"},
		"part twice":         {func(_ *fixture, p *push) { p.numbers = []int{1, 1, 3} }, "part 1 is listed where part 2"},
		"part of no number":  {func(_ *fixture, p *push) { p.numbers = []int{1, 2, 4} }, "part 4 is listed where part 3"},
		"no parts":           {func(_ *fixture, p *push) { p.numbers = nil }, "0 parts"},
		"small part": {func(_ *fixture, p *push) {
			p.parts[0], p.parts[1] = p.parts[0][:10], append(p.parts[0][10:], p.parts[1]...)
		}, "part 1 has 10 bytes"},
		"parts swapped": {func(_ *fixture, p *push) { p.parts[0], p.parts[1] = p.parts[1], p.parts[0] }, "the file has the SHA-256"},
		"byte more":     {func(_ *fixture, p *push) { p.parts[2] = append(p.parts[2], 0) }, "the file has"},
		"wrong eTag": {func(_ *fixture, p *push) {
			p.request = func(c map[string]any) { c["parts"].([]map[string]any)[1]["eTag"] = `"x"` }
		}, "eTag of part 2"},
		"field unknown":       {set("cNothing", 1), "unknown field"},
		"nothing announced":   {func(_ *fixture, p *push) { p.request = func(c map[string]any) { delete(c, "narInfoCreate") } }, "narInfoCreate is missing"},
		"file hash":           {set("cFileHash", strings.Repeat("0", 64)), "the file has the SHA-256"},
		"file hash as base32": {set("cFileHash", strings.Repeat("0", 52)), "cFileHash is not"},
		"file size":           {set("cFileSize", 5), "the file has"},
		"archive hash":        {set("cNarHash", "sha256:"+strings.Repeat("0", 52)), "the archive has the SHA-256"},
		"archive hash as hex": {set("cNarHash", "sha256:"+strings.Repeat("0", 64)), "cNarHash is not"},
		"archive size, less":  {set("cNarSize", 100), "not a Nix archive"},
		"archive size, more":  {set("cNarSize", 1<<40), "the archive has"},
		"store hash":          {set("cStoreHash", strings.Repeat("e", 32)), "is not the name of a store path"},
		"name with a slash":   {set("cStoreSuffix", "../../x"), "is not the name of a store path"},
		"no name":             {set("cStoreSuffix", ""), "is not the name of a store path"},
		"full references":     {set("cReferences", []string{"/nix/store/" + hash + "-name"}), "one of cReferences"},
		"references unsorted": {set("cReferences", []string{hash + "-name", other + "-lib"}), "not sorted"},
		"reference twice":     {set("cReferences", []string{hash + "-name", hash + "-name"}), "stands twice"},
		"references null":     {set("cReferences", nil), "cReferences is missing"},
		"full deriver":        {set("cDeriver", "/nix/store/"+hash+"-name.drv"), "cDeriver is neither"},
		"deriver of no .drv":  {set("cDeriver", hash+"-name"), "cDeriver is neither"},
		"no deriver":          {set("cDeriver", ""), "cDeriver is neither"},
		"no signature":        {func(_ *fixture, p *push) { p.sign = nil }, "cSig is missing"},
		"signature of base64": {func(_ *fixture, p *push) { p.sign = func(a map[string]any) { a["cSig"] = "!" } }, "cSig is not base64"},
		"signature with name": {func(_ *fixture, p *push) {
			sign := p.sign
			p.sign = func(a map[string]any) { sign(a); a["cSig"] = "default:" + a["cSig"].(string) }
		}, "cSig is not base64"},
		"signature of another key": {func(w *fixture, _ *push) { _, w.private, _ = ed25519.GenerateKey(nil) }, "none of the cache's 1 keys"},
		"signature of another name": {func(_ *fixture, p *push) {
			sign := p.sign
			p.sign = func(a map[string]any) { sign(a); a["cStoreSuffix"] = "name-1.1" }
		}, "none of the cache's 1 keys"},
		"no archive":              {func(w *fixture, p *push) { *p = *w.pushOf([]byte("text"), compress([]byte("text"))) }, "not a Nix archive"},
		"archive that is not one": {func(w *fixture, p *push) { *p = *w.pushOf(badArchive, compress(badArchive)) }, "not a Nix archive"},
		"not compressed":          {func(w *fixture, p *push) { *p = *w.pushOf(good, good) }, "what the file holds"},
		"part's type":             {header(1, "text/plain"), "Content-Type of a part"},
		"part's MD5":              {header(3, "AAAAAAAAAAAAAAAAAAAAAA=="), "Content-MD5 of part 1"},
		"part without MD5":        {header(3, ""), "Content-MD5 of part 1"},
		"part with the key": {func(_ *fixture, p *push) {
			p.put = func(address string, h []string) (string, []string) {
				return address, append(h, "Authorization", "Bearer "+token)
			}
		}, "does not belong here"},
		"address escaped": {address(func(a string) string { return strings.ReplaceAll(a, "+", "%2B") }), "not the address"},
		"address cut":     {address(func(a string) string { return strings.TrimRight(a, "=") }), "not the address"},
		"other address":   {address(func(a string) string { return strings.Replace(a, "/1?", "/2?", 1) }), "not the address"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newFixture(t)
			p := w.newPush()
			test.change(w, p)
			status, text := w.run(p)
			if status < 400 || status >= 500 || !strings.Contains(text, test.want) {
				t.Errorf("%d %s, want a refusal with %q", status, text, test.want)
			}
			if w.announced() {
				t.Error("the path was announced")
			}
		})
	}
}

// The content of a part is checked against the MD5 in its announcement.
func TestPartThatIsDamaged(t *testing.T) {
	w := newFixture(t)
	p := w.newPush()
	p.put = func(address string, h []string) (string, []string) {
		p.parts[0][0] ^= 1 // after its MD5 was taken
		return address, h
	}
	if status, text := w.run(p); status != 400 || !strings.Contains(text, "part 1 does not have its MD5") {
		t.Errorf("%d %s", status, text)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	w := newFixture(t)
	tooMany := `["` + hash + `"` + strings.Repeat(`,"`+hash+`"`, maxHashes) + `]`
	for _, test := range []struct {
		method, path, body string
		header             []string
		want               int
	}{
		{"GET", "/api/v1/cache/default", "", nil, 200},
		{"GET", "/api/v1/cache/default", "", []string{"Authorization", ""}, 401},
		{"GET", "/api/v1/cache/default", "", []string{"Authorization", "Basic x"}, 401},
		{"GET", "/api/v1/cache/default", "", []string{"Authorization", "Bearer x"}, 403},
		{"GET", "/api/v1/cache/other", "", nil, 404},
		{"GET", "/api/v1/unknown", "", nil, 404},
		{"PUT", "/api/v1/cache/default", "", nil, 405},
		{"POST", "/api/v1/cache/default/narinfo", tooMany, nil, 400},
		{"POST", "/api/v1/cache/default/narinfo", `["short"]`, nil, 400},
		{"POST", "/api/v1/cache/default/narinfo", `[] []`, nil, 400},
		{"POST", "/api/v1/cache/default/narinfo", `[]`, []string{"Content-Type", "text/plain"}, 400},
		{"POST", "/api/v1/cache/default/key", `{"publicKey":"x"}`, nil, 400},
		{"POST", "/api/v1/cache/default/key", `{}`, nil, 400},
		{"POST", begin + "?compression=xz", "", nil, 400},
		{"POST", begin, "", nil, 400},
		{"POST", begin + "/..%2F..%2Fkeys?uploadId=x&partNumber=1", `{"contentMD5":""}`, nil, 400},
		{"POST", begin + "/00000000-0000-4000-8000-000000000000?uploadId=x&partNumber=1", `{"contentMD5":""}`, nil, 404},
		{"POST", begin + "/00000000-0000-4000-8000-000000000000/abort?uploadId=x", "", nil, 404},
		{"PUT", "/upload/default/00000000-0000-4000-8000-000000000000/1?x", "", nil, 404},
		{"GET", "/default/keys", "", nil, 404},
		{"GET", "/default/nar/..%2F..%2Fkeys", "", nil, 404},
		{"GET", "/default/" + hash + ".narinfo", "", nil, 404},
		{"HEAD", "/default/" + hash + ".narinfo", "", nil, 404},
	} {
		status, text, _ := w.do(test.method, test.path, []byte(test.body), test.header...)
		if status != test.want {
			t.Errorf("%s %s: %d %.200s, want %d", test.method, test.path, status, text, test.want)
		}
	}
}

func TestKeys(t *testing.T) {
	w := &fixture{t: t, folder: t.TempDir()}
	w.start()
	if status, text, _ := w.do("GET", "/api/v1/cache/default", nil); status != 400 {
		t.Errorf("without a key: %d %s, want 400", status, text)
	}
	const key = "tLAEn+EeaBUJYqEpTd2yeerr7Ic6+0vWe+aXL/vYUpE="
	for _, text := range []string{key, "name:" + key} { // both are the same key
		if status, text, _ := w.do("POST", "/api/v1/cache/default/key", []byte(`{"publicKey":"`+text+`"}`)); status != 200 {
			t.Errorf("%d %s", status, text)
		}
	}
	w.start()
	_, text, _ := w.do("GET", "/api/v1/cache/default", nil)
	if !strings.Contains(string(text), `"publicSigningKeys":["default:`+key+`"]`) {
		t.Errorf("after a restart: %s", text)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, options := range []Options{
		{Folder: t.TempDir(), Names: []string{"default"}},
		{Folder: t.TempDir(), Token: token, Names: []string{"../x"}},
		{Folder: t.TempDir(), Token: token, Names: []string{"api"}},
		{Folder: "/dev/null/x", Token: token, Names: []string{"default"}},
	} {
		if _, err := New(options); err == nil {
			t.Errorf("%+v: no error", options)
		}
	}
}

func TestPrivate(t *testing.T) {
	cache, err := New(Options{Folder: t.TempDir(), Token: token, Names: []string{"default"}, Private: true})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(cache)
	defer server.Close()
	w := &fixture{t: t, url: server.URL}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("anybody:"+token))
	for authorization, want := range map[string]int{"": 401, "Bearer x": 401, "Bearer " + token: 200, basic: 200} {
		if status, _, _ := w.do("GET", "/default/nix-cache-info", nil, "Authorization", authorization); status != want {
			t.Errorf("%q: %d, want %d", authorization, status, want)
		}
	}
}
