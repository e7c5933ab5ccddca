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

// An upload is one that has been neither completed nor aborted. It is kept in memory,
// but for the bytes of its parts, and does not outlive the process.
type upload struct {
	narID  string
	secret string // of the addresses of its parts

	mu       sync.Mutex      // held for what follows, and for as long as it is completed
	md5s     map[int]string  // by the numbers of parts: what each is to have, in base64
	parts    map[int]part    // by their numbers: those that have come whole
	arriving map[string]bool // the files of parts that are on their way
	over     bool            // it has been completed or aborted
}

// A part is one that has come whole.
type part struct {
	file string // of its own, which nothing writes any more
	size int64  // in bytes
	eTag string
}

const (
	// maxPart is the highest number of a part: that of S3.
	maxPart = 10000
	// maxPartSize bounds the bytes of one part: that of S3.
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
	rand.Read(b[:]) // which never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// uploadID is not a word, so that whoever puts it into an address has to escape it.
func (u *upload) uploadID() string { return "up+load/" + u.narID + "=" }

var narID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// open finds the upload of an id.
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

// opened finds the upload that a request names by both its ids.
func (c *cache) opened(r *http.Request) (*upload, error) {
	u, err := c.open(r.PathValue("nar"))
	if err == nil && r.URL.Query().Get("uploadId") != u.uploadID() {
		err = bad("the uploadId is not that of the upload %s", u.narID)
	}
	return u, err
}

// lock waits for whatever else is done with an upload, and refuses one that is over.
// Where it returns nil, u.mu is held.
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

// partURL gives the address for one part.
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

// query is the query of a part's address. It holds base64 as it is, as Iglu Cache's
// does, so that whoever escapes it or reads its '+' as a space is found out.
func (u *upload) query(contentMD5 string) string {
	return "md5=" + contentMD5 + "&key=" + u.secret + "+/=="
}

// putPart takes the bytes of a part. Its address is all that it asks for; as an object
// store does, it refuses a second way to show a key.
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

// expect makes the file of a part that is on its way.
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

// create makes a file of a name of its own among the uploads.
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

// copyBuffer is how many bytes of a file are read or written at once: with 32 kB, that
// of io.Copy, a large one takes the system longer.
const copyBuffer = 256 << 10

// copyAll is io.Copy with a larger buffer, or with a smaller one for a few bytes. It
// does not have the kernel copy from file to file, which takes that longer still.
func copyAll(w io.Writer, r io.Reader, size int64) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, max(1, min(size, copyBuffer))))
}

// eTag is how S3 names a part, in quotes.
func eTag(md5 []byte) string { return `"` + hex.EncodeToString(md5) + `"` }

// add gives an upload the part that has come, in place of one of that number that came
// before; or throws the part away, where something is wrong with it.
func (u *upload) add(number int, p part, wrong error) error {
	if err := u.lock(); err != nil {
		return err // and its file is gone with the upload
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

// abort throws an upload away.
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

// end forgets an upload, whose lock is held, and removes the files that it still has. A
// part that is on its way finds that the upload is over.
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
