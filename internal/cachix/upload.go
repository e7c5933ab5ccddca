package cachix

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// An upload is the upload of a path. It is a writer for the compressed archive, which it splits into parts. A part
// is sent while the next one is filled.
type upload struct {
	by     *uploader // has what all uploads share
	path   Path
	ctx    context.Context // cancelled after the first part that cannot be sent
	cancel context.CancelCauseFunc

	narID, uploadID string // empty until the first part is filled
	outages         int    // the outages of the cache before that
	buffer          []byte // the part that is being filled
	file            hash.Hash
	size            int64
	signature       string // with which it is announced

	sending sync.WaitGroup
	sent    []part // by number; each part's goroutine writes one element
	mu      sync.Mutex
}

// A part is a part that the cache has accepted.
type part struct {
	Number int    `json:"partNumber"` // from 1
	ETag   string `json:"eTag"`
}

// push sends the archive and announces the path.
func (u *upload) push(nar func(w io.Writer) error, key *SigningKey) error {
	if err := u.compress(nar); err != nil {
		// If a part failed, its error is the cause of all others.
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		return err
	}
	if err := u.finish(); err != nil {
		return err
	}
	return u.announce(key)
}

// partsLost is the error of Iglu Cache if it has deleted the parts of an upload, which it does when it starts.
const partsLost = "Part file does not exist"

// isLost reports whether an upload has failed because the cache has lost it, or parts of it: the cache says so (410 if the
// upload took longer than it may), or it was down since the upload began.
func (u *upload) isLost(err error) bool {
	failure, ok := errors.AsType[*Error](err)
	return ok && u.narID != "" && failure.Kind == Refused &&
		(failure.Status == http.StatusNotFound || failure.Status == http.StatusGone || strings.Contains(failure.Detail, partsLost) ||
			u.by.transport.hosts.outages(u.by.transport.home.Host) != u.outages)
}

// A meter computes the hash and size of an archive that is written to it.
type meter struct {
	hash hash.Hash
	size int64
}

func (m *meter) Write(b []byte) (int, error) {
	m.size += int64(len(b))
	return m.hash.Write(b)
}

// compress checks and compresses the archive, and splits it into parts.
func (u *upload) compress(nar func(w io.Writer) error) error {
	compression := u.by.compressor.compress(u)
	archive := &meter{hash: sha256.New()}
	err := compression.finish(nar(io.MultiWriter(archive, compression)))
	if err != nil {
		return fmt.Errorf("push %s: %w", u.path.Name(), err)
	}
	return u.compare(archive)
}

// compare compares the archive's hash and size with the store's metadata.
func (u *upload) compare(archive *meter) error {
	wrong := &Error{Kind: WrongNar, Doing: "push " + u.path.Name() + " to", Cache: u.by.transport.shown}
	if archive.size != u.path.NarSize {
		wrong.Detail = fmt.Sprintf("%d bytes, and %d on record", archive.size, u.path.NarSize)
		return wrong
	}
	if sum := Hash(archive.hash.Sum(nil)); sum != u.path.NarHash {
		wrong.Detail = fmt.Sprintf("%s, and %s on record", sum, u.path.NarHash)
		return wrong
	}
	return nil
}

// close ends what is still running, and returns the buffer to the pool.
func (u *upload) close() {
	u.cancel(context.Canceled)
	u.sending.Wait()
	if u.buffer != nil {
		u.by.parts.release(u.buffer)
		u.buffer = nil
	}
}

func (u *upload) fileHash() Hash { return Hash(u.file.Sum(nil)) }

// Write adds bytes of the compressed archive. A full part is sent only when more bytes follow, so that the last part is
// never empty.
func (u *upload) Write(b []byte) (int, error) {
	u.file.Write(b)
	u.size += int64(len(b))
	for rest := b; len(rest) > 0; {
		if len(u.buffer) == u.by.parts.size {
			if err := u.flush(); err != nil {
				return 0, err
			}
		}
		if u.buffer == nil {
			buffer, err := u.by.parts.acquire(u.ctx)
			if err != nil {
				return 0, err
			}
			u.buffer = buffer
		}
		n := min(len(rest), u.by.parts.size-len(u.buffer))
		u.buffer, rest = append(u.buffer, rest[:n]...), rest[n:]
	}
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return len(b), nil
}

// finish sends the last part, and waits until the cache has all parts.
func (u *upload) finish() error {
	if err := u.flush(); err != nil {
		return err
	}
	u.sending.Wait()
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	return nil
}

// flush starts to send the filled part, in the background.
func (u *upload) flush() error {
	if u.narID == "" {
		if err := u.begin(); err != nil {
			return err
		}
	}
	buffer := u.buffer
	u.buffer = nil
	u.mu.Lock()
	u.sent = append(u.sent, part{Number: len(u.sent) + 1})
	number := len(u.sent)
	u.mu.Unlock()
	u.sending.Go(func() {
		defer u.by.parts.release(buffer)
		eTag, err := u.send(number, buffer)
		if err != nil {
			u.cancel(err)
			return
		}
		u.mu.Lock()
		u.sent[number-1].ETag = eTag
		u.mu.Unlock()
	})
	return nil
}

// begin starts the upload at the cache.
func (u *upload) begin() error {
	var answer struct {
		NarID    string `json:"narId"`
		UploadID string `json:"uploadId"`
	}
	doing := "start the upload of " + u.path.Name() + " to"
	u.outages = u.by.transport.hosts.outages(u.by.transport.home.Host)
	err := u.by.retrier.do(u.ctx, call{doing: doing, method: http.MethodPost,
		url: u.by.transport.api + "/multipart-nar?compression=zst", answer: &answer})
	if err != nil {
		return err
	}
	if answer.NarID == "" || answer.UploadID == "" {
		return &Error{Kind: NotCachix, Doing: doing, Cache: u.by.transport.shown, Detail: "it names no upload"}
	}
	u.narID, u.uploadID = answer.NarID, answer.UploadID
	return nil
}

// url returns the address of a call about the upload.
func (u *upload) url(action, query string) string {
	return u.by.transport.api + "/multipart-nar/" + url.PathEscape(u.narID) + action +
		"?uploadId=" + url.QueryEscape(u.uploadID) + query
}

// send sends a part, and returns the cache's ETag for it. Each attempt asks for a new address, because an address can
// expire.
func (u *upload) send(number int, content []byte) (eTag string, err error) {
	sum := md5.Sum(content)
	contentMD5 := base64.StdEncoding.EncodeToString(sum[:])
	doing := fmt.Sprintf("send part %d of %s to", number, u.path.Name())
	err = u.by.retrier.retry(u.ctx, func() error {
		var answer struct {
			UploadURL string `json:"uploadUrl"`
		}
		err := u.by.transport.once(u.ctx, call{doing: doing, method: http.MethodPost,
			url:  u.url("", "&partNumber="+strconv.Itoa(number)),
			body: map[string]string{"contentMD5": contentMD5}, answer: &answer})
		if err == nil {
			eTag, err = u.put(doing, answer.UploadURL, contentMD5, content)
		}
		return err
	})
	return eTag, err
}

// put sends a part to the address that the cache has returned for it, or to where that has moved. The address is a
// secret: it can contain a key, or be enough to write.
func (u *upload) put(doing, address, contentMD5 string, content []byte) (eTag string, err error) {
	t := u.by.transport
	notCachix := func(detail string) error {
		return &Error{Kind: NotCachix, Doing: doing, Cache: t.shown, Detail: detail}
	}
	ctx, cancel := context.WithTimeout(u.ctx, t.options.PartTimeout)
	defer cancel()
	for range maxRedirects {
		// The query must not be changed: it can contain base64 without escapes.
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, address, bytes.NewReader(content))
		if err != nil || request.URL.Host == "" || request.URL.Scheme != "http" && request.URL.Scheme != "https" {
			return "", notCachix("it gives no address to send a part to")
		}
		request.Header.Set("Content-Type", "application/octet-stream")
		request.Header.Set("Content-MD5", contentMD5)
		response, _, err := t.exchange(request)
		switch {
		case err != nil:
			return "", t.failed(u.ctx, doing, request, err)
		case response.StatusCode/100 == 2:
			t.hosts.answered(request.URL.Host)
			if eTag = response.Header.Get("ETag"); eTag == "" {
				return "", notCachix("it does not confirm a part with an ETag")
			}
			return eTag, nil
		}
		if address = moved(response); address == "" {
			return "", u.notAccepted(doing, response)
		}
		t.hosts.answered(request.URL.Host)
	}
	return "", notCachix("the address for a part is always elsewhere")
}

// moved returns the address at which a part has to be sent again, or "". A server that has moved from http to https says
// so, and S3 while a bucket is new. The encryption of an address is not given up.
func moved(response *http.Response) string {
	switch response.StatusCode {
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default: // others have the client continue with GET
		return ""
	}
	to, err := response.Location()
	if err != nil || to.Scheme != "https" && to.Scheme != response.Request.URL.Scheme {
		return ""
	}
	return to.String()
}

// notAccepted returns the error for a part that was not accepted.
func (u *upload) notAccepted(doing string, response *http.Response) error {
	// Without its message: in it, an object store repeats the signed request.
	failure := u.by.transport.answered(doing, response, nil)
	if failure.Kind == KeyRefused {
		failure.Kind = Refused // it was not asked with the API key
	}
	failure.again = failure.again || mayPass(response.StatusCode)
	return failure
}

// mayPass reports whether a part that was refused with a status may be accepted at the next address. S3 and others like it
// answer 403 if the address has expired, and 400 if they did not get the part in time or as its MD5 says; Iglu Cache
// answers 400 to that as well.
func mayPass(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return true
	}
	return false
}
