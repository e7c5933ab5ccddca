package devcache

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
)

// An upload is one that is neither completed nor aborted. Its parts are in files and the rest is in memory,
// so that it is lost when the process ends.
type upload struct {
	narID  string
	secret string // in the addresses of its parts

	mu       sync.Mutex      // guards the fields below; held during the whole completion
	md5s     map[int]string  // the expected MD5 of each part in base64, by number
	parts    map[int]part    // the parts received completely, by number
	arriving map[string]bool // the files of parts that are being received
	over     bool            // it has been completed or aborted
}

// A part is a part of an upload that was received completely.
type part struct {
	file string // the name of its file, which does not change any more
	size int64  // in bytes
	eTag string
}

const (
	// maxPart is the highest number of a part, as in S3.
	maxPart = 10000
	// maxPartSize is the maximum size of a part in bytes, as in S3.
	maxPartSize = 5 << 30
)

// begin starts an upload.
func (s *Server) begin(c *cache, w http.ResponseWriter, r *http.Request) error {
	if compression := r.URL.Query().Get("compression"); compression != "zst" {
		return bad("the compression is %q, and this cache takes zst only", compression)
	}
	u := &upload{narID: uuid(), secret: rand.Text(), md5s: map[int]string{}, parts: map[int]part{},
		arriving: map[string]bool{}}
	c.mu.Lock()
	c.uploads[u.narID] = u
	c.mu.Unlock()
	return answer(w, map[string]string{"narId": u.narID, "uploadId": u.uploadID()})
}

// uuid returns a random UUID (RFC 9562, version 4).
func uuid() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// uploadID contains characters that a client must escape in a URL.
func (u *upload) uploadID() string { return "up+load/" + u.narID + "=" }

var narID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// open finds the upload with an id.
func (c *cache) open(id string) (*upload, error) {
	if !narID.MatchString(id) {
		return nil, bad("%.80q is not the id of an upload", id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if u := c.uploads[id]; u != nil {
		return u, nil
	}
	return nil, noUpload(id)
}

func noUpload(id string) error { return refuse(http.StatusNotFound, "there is no upload %s", id) }

// opened finds the upload of a request, which contains both ids of the upload.
func (c *cache) opened(r *http.Request) (*upload, error) {
	u, err := c.open(r.PathValue("nar"))
	if err == nil && r.URL.Query().Get("uploadId") != u.uploadID() {
		err = bad("the uploadId is not that of the upload %s", u.narID)
	}
	return u, err
}

// lock locks an upload. It returns an error if the upload is over; otherwise u.mu is held.
func (u *upload) lock() error {
	u.mu.Lock()
	if u.over {
		u.mu.Unlock()
		return noUpload(u.narID)
	}
	return nil
}

func partNumber(text string) (int, error) {
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 || number > maxPart || strconv.Itoa(number) != text {
		return 0, bad("%.80q is not the number of a part, 1 to %d", text, maxPart)
	}
	return number, nil
}

// partURL returns the address to which a client sends one part.
func (s *Server) partURL(c *cache, w http.ResponseWriter, r *http.Request) error {
	u, err := c.opened(r)
	if err != nil {
		return err
	}
	number, err := partNumber(r.URL.Query().Get("partNumber"))
	if err != nil {
		return err
	}
	var request struct {
		ContentMD5 string `json:"contentMD5"`
	}
	if err := decode(r, &request); err != nil {
		return err
	}
	if sum, err := base64.StdEncoding.DecodeString(request.ContentMD5); err != nil || len(sum) != md5.Size {
		return bad("contentMD5 is not the base64 of an MD5")
	}
	if err := u.lock(); err != nil {
		return err
	}
	u.md5s[number] = request.ContentMD5
	u.mu.Unlock()
	return answer(w, map[string]string{"uploadUrl": fmt.Sprintf("http://%s/upload/%s/%s/%d?%s",
		r.Host, c.name, u.narID, number, u.query(request.ContentMD5))})
}

// query returns the query of a part's address. It contains base64 without escapes, as in Iglu Cache, so
// that tests find clients that escape it or read its '+' as a space.
func (u *upload) query(contentMD5 string) string {
	return "md5=" + contentMD5 + "&key=" + u.secret + "+/=="
}

// putPart receives a part. The address is the only credential: like an object store, it rejects a request that
// also has a header with a key.
func (s *Server) putPart(c *cache, w http.ResponseWriter, r *http.Request) error {
	u, err := c.open(r.PathValue("nar"))
	if err != nil {
		return err
	}
	number, err := partNumber(r.PathValue("part"))
	if err != nil {
		return err
	}
	if err := u.lock(); err != nil {
		return err
	}
	contentMD5, ok := u.md5s[number]
	u.mu.Unlock()
	if !ok || r.URL.RawQuery != u.query(contentMD5) {
		return refuse(http.StatusForbidden, "this is not the address that was given for part %d", number)
	}
	switch {
	case r.Header.Get("Authorization") != "":
		return bad("the API key does not belong here")
	case r.Header.Get("Content-Type") != "application/octet-stream":
		return bad("the Content-Type of a part is not application/octet-stream")
	case r.Header.Get("Content-MD5") != contentMD5:
		return bad("the Content-MD5 of part %d is not the one announced", number)
	case r.ContentLength < 0:
		return refuse(http.StatusLengthRequired, "part %d has no Content-Length", number)
	case r.ContentLength > maxPartSize:
		return bad("part %d is larger than %d bytes", number, maxPartSize)
	}
	file, err := c.expect(u)
	if err != nil {
		return err
	}
	p, err := receive(file, r, number, contentMD5)
	if err := u.add(number, p, err); err != nil {
		return err
	}
	w.Header().Set("ETag", p.eTag)
	return nil
}

// expect creates the file for a part that is about to be received.
func (c *cache) expect(u *upload) (*os.File, error) {
	if err := u.lock(); err != nil {
		return nil, err
	}
	defer u.mu.Unlock()
	file, err := c.create()
	if err == nil {
		u.arriving[file.Name()] = true
	}
	return file, err
}

// create creates a file with a unique name in the folder of the uploads.
func (c *cache) create() (*os.File, error) {
	return os.OpenFile(filepath.Join(c.folder, uploadFolder, rand.Text()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
}

// receive writes the bytes of a part to its file.
func receive(file *os.File, r *http.Request, number int, contentMD5 string) (part, error) {
	sum := md5.New()
	size, err := copyAll(io.MultiWriter(file, sum), r.Body, r.ContentLength)
	came := sum.Sum(nil)
	switch {
	case err != nil || size != r.ContentLength:
		err = bad("part %d has not come whole", number)
	case base64.StdEncoding.EncodeToString(came) != contentMD5:
		err = bad("part %d does not have its MD5", number)
	}
	return part{file: file.Name(), size: size, eTag: eTag(came)}, errors.Join(err, file.Close())
}

// copyBuffer is the number of bytes that are read or written at a time. The 32 kB of io.Copy are slower for
// large files.
const copyBuffer = 256 << 10

// copyAll is io.Copy with a buffer of at most copyBuffer bytes. It does not let the kernel copy from file
// to file, which is even slower.
func copyAll(w io.Writer, r io.Reader, size int64) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, max(1, min(size, copyBuffer))))
}

// eTag returns the ETag of a part as in S3: its MD5 in quotes.
func eTag(md5 []byte) string { return `"` + hex.EncodeToString(md5) + `"` }

// add adds a received part to an upload and replaces an earlier part with that number. If wrong is not nil,
// it removes the part instead.
func (u *upload) add(number int, p part, wrong error) error {
	if err := u.lock(); err != nil {
		return err // the file was removed with the upload
	}
	defer u.mu.Unlock()
	delete(u.arriving, p.file)
	if wrong != nil {
		return errors.Join(wrong, os.Remove(p.file))
	}
	before, again := u.parts[number]
	u.parts[number] = p
	if again {
		return os.Remove(before.file)
	}
	return nil
}

// abort removes an upload.
func (s *Server) abort(c *cache, w http.ResponseWriter, r *http.Request) error {
	u, err := c.opened(r)
	if err != nil {
		return err
	}
	if err := u.lock(); err != nil {
		return err
	}
	defer u.mu.Unlock()
	if err := c.end(u); err != nil {
		return err
	}
	return answer(w, map[string]string{})
}

// end removes an upload and its files. Its lock must be held. A part that is being received finds that the
// upload is over.
func (c *cache) end(u *upload) error {
	u.over = true
	c.mu.Lock()
	delete(c.uploads, u.narID)
	c.mu.Unlock()
	var errs []error
	for _, p := range u.parts {
		errs = append(errs, os.Remove(p.file))
	}
	for file := range u.arriving {
		errs = append(errs, os.Remove(file))
	}
	return errors.Join(errs...)
}
