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
	"strings"
	"syscall"
)

// An upload is a folder. Beside its parts, which are files named by their numbers, lie
// the MD5 that each is to have, as NUMBER.md5, and the secret of the addresses.
type upload struct {
	cache  cache
	narID  string
	folder string
	secret string
}

const (
	// secretFile holds the secret of an upload's addresses.
	secretFile = "secret"
	// maxPart is the highest number of a part: that of S3.
	maxPart = 10000
	// maxPartSize bounds the bytes of one part: that of S3.
	maxPartSize = 5 << 30
)

// begin starts an upload.
func (s *Server) begin(c cache, w http.ResponseWriter, r *http.Request) error {
	if compression := r.URL.Query().Get("compression"); compression != "zst" {
		return bad("the compression is %q, and this cache takes zst only", compression)
	}
	u := upload{cache: c, narID: uuid(), secret: rand.Text()}
	u.folder = filepath.Join(c.folder, uploadFolder, u.narID)
	if err := os.Mkdir(u.folder, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(u.folder, secretFile), []byte(u.secret), 0o600); err != nil {
		return err
	}
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
func (u upload) uploadID() string { return "up+load/" + u.narID + "=" }

var narID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// open finds the upload of an id.
func (c cache) open(id string) (upload, error) {
	u := upload{cache: c, narID: id, folder: filepath.Join(c.folder, uploadFolder, id)}
	if !narID.MatchString(id) {
		return u, bad("%.80q is not the id of an upload", id)
	}
	secret, err := os.ReadFile(filepath.Join(u.folder, secretFile))
	if errors.Is(err, os.ErrNotExist) {
		return u, refuse(http.StatusNotFound, "there is no upload %s", id)
	}
	u.secret = string(secret)
	return u, err
}

// opened finds the upload that a request names by both its ids.
func (c cache) opened(r *http.Request) (upload, error) {
	u, err := c.open(r.PathValue("nar"))
	if err == nil && r.URL.Query().Get("uploadId") != u.uploadID() {
		err = bad("the uploadId is not that of the upload %s", u.narID)
	}
	return u, err
}

func (u upload) partFile(number int) string { return filepath.Join(u.folder, strconv.Itoa(number)) }
func (u upload) md5File(number int) string  { return u.partFile(number) + ".md5" }

func partNumber(text string) (int, error) {
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 || number > maxPart || strconv.Itoa(number) != text {
		return 0, bad("%.80q is not the number of a part, 1 to %d", text, maxPart)
	}
	return number, nil
}

// partURL gives the address for one part.
func (s *Server) partURL(c cache, w http.ResponseWriter, r *http.Request) error {
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
	if err := replaceText(u.md5File(number), request.ContentMD5); err != nil {
		return err
	}
	return answer(w, map[string]string{"uploadUrl": fmt.Sprintf("http://%s/upload/%s/%s/%d?%s",
		r.Host, c.name, u.narID, number, u.query(request.ContentMD5))})
}

// query is the query of a part's address. It holds base64 as it is, as Iglu Cache's
// does, so that whoever escapes it or reads its '+' as a space is found out.
func (u upload) query(contentMD5 string) string {
	return "md5=" + contentMD5 + "&key=" + u.secret + "+/=="
}

// replace has a file written whole, or leaves what was there.
func replace(path string, write func(io.Writer) error) error {
	file, err := os.CreateTemp(filepath.Dir(path), "new-*")
	if err != nil {
		return err
	}
	err = write(file)
	if err = errors.Join(err, file.Chmod(0o644), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		os.Remove(file.Name())
	}
	return err
}

// replaceText is replace with what is known already.
func replaceText(path, text string) error {
	return replace(path, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// putPart takes the bytes of a part. Its address is all that it asks for; as an object
// store does, it refuses a second way to show a key.
func (s *Server) putPart(c cache, w http.ResponseWriter, r *http.Request) error {
	u, err := c.open(r.PathValue("nar"))
	if err != nil {
		return err
	}
	number, err := partNumber(r.PathValue("part"))
	if err != nil {
		return err
	}
	contentMD5, err := os.ReadFile(u.md5File(number))
	if err != nil || r.URL.RawQuery != u.query(string(contentMD5)) {
		return refuse(http.StatusForbidden, "this is not the address that was given for part %d", number)
	}
	switch {
	case r.Header.Get("Authorization") != "":
		return bad("the API key does not belong here")
	case r.Header.Get("Content-Type") != "application/octet-stream":
		return bad("the Content-Type of a part is not application/octet-stream")
	case r.Header.Get("Content-MD5") != string(contentMD5):
		return bad("the Content-MD5 of part %d is not the one announced", number)
	case r.ContentLength < 0:
		return refuse(http.StatusLengthRequired, "part %d has no Content-Length", number)
	}
	sum := md5.New()
	err = replace(u.partFile(number), func(file io.Writer) error {
		size, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(r.Body, maxPartSize+1))
		if err != nil || size != r.ContentLength || size > maxPartSize {
			return bad("part %d has not come whole, or is larger than %d bytes", number, maxPartSize)
		}
		if base64.StdEncoding.EncodeToString(sum.Sum(nil)) != string(contentMD5) {
			return bad("part %d does not have its MD5", number)
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.Header().Set("ETag", eTag(sum.Sum(nil)))
	return nil
}

// eTag is how S3 names a part, in quotes.
func eTag(md5 []byte) string { return `"` + hex.EncodeToString(md5) + `"` }

// abort throws an upload away.
func (s *Server) abort(c cache, w http.ResponseWriter, r *http.Request) error {
	u, err := c.opened(r)
	if err != nil {
		return err
	}
	if err := u.remove(); err != nil {
		return err
	}
	return answer(w, map[string]string{})
}

// remove throws an upload's folder away: under another name, so that a part that is
// still on its way finds no folder. One that has just found it can put a file there
// while the folder is emptied, and then it has to be emptied again.
func (u upload) remove() error {
	gone := u.folder + ".gone"
	if err := os.Rename(u.folder, gone); err != nil {
		return err
	}
	err := os.RemoveAll(gone)
	for tries := 0; errors.Is(err, syscall.ENOTEMPTY) && tries < maxPart; tries++ {
		err = os.RemoveAll(gone)
	}
	return err
}

// parts returns the numbers of the parts that an upload has.
func (u upload) parts() (map[int]bool, error) {
	entries, err := os.ReadDir(u.folder)
	if err != nil {
		return nil, err
	}
	numbers := map[int]bool{}
	for _, entry := range entries {
		if number, err := strconv.Atoi(entry.Name()); err == nil && !strings.Contains(entry.Name(), ".") {
			numbers[number] = true
		}
	}
	return numbers, nil
}
