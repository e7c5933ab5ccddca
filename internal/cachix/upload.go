package cachix

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"strconv"
	"sync"
)

// An upload is a path on its way. It is the writer of the compressed archive, which
// it cuts into parts that are sent while the next is filled.
type upload struct {
	client *Client
	path   Path
	ctx    context.Context // ends with the first part that cannot be sent
	cancel context.CancelCauseFunc

	narID, uploadID string // nothing until the first part is there
	outages         int    // of the cache, before that
	buffer          []byte // the part that is being filled
	file            hash.Hash
	size            int64
	signature       string // that it is announced with

	sending sync.WaitGroup
	sent    []part // by number; each part's goroutine writes its own
	mu      sync.Mutex
}

// part is one that the cache has taken.
type part struct {
	Number int    `json:"partNumber"` // from 1
	ETag   string `json:"eTag"`
}

func (c *Client) newUpload(ctx context.Context, p Path) *upload {
	u := &upload{client: c, path: p, file: sha256.New()}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	return u
}

// close ends what is still under way and gives the buffer back.
func (u *upload) close() {
	u.cancel(context.Canceled)
	u.sending.Wait()
	if u.buffer != nil {
		u.client.release(u.buffer)
		u.buffer = nil
	}
}

func (u *upload) fileHash() Hash { return Hash(u.file.Sum(nil)) }

// Write takes more of the compressed archive. A part is sent when it is full and
// there is more, so that the last one is never empty.
func (u *upload) Write(b []byte) (int, error) {
	u.file.Write(b)
	u.size += int64(len(b))
	for rest := b; len(rest) > 0; {
		if len(u.buffer) == u.client.options.PartSize {
			if err := u.flush(); err != nil {
				return 0, err
			}
		}
		if u.buffer == nil {
			buffer, err := u.client.acquire(u.ctx)
			if err != nil {
				return 0, err
			}
			u.buffer = buffer
		}
		n := min(len(rest), u.client.options.PartSize-len(u.buffer))
		u.buffer, rest = append(u.buffer, rest[:n]...), rest[n:]
	}
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return len(b), nil
}

// acquire returns an empty part, as soon as there is room for one in memory.
func (c *Client) acquire(ctx context.Context) ([]byte, error) {
	select {
	case c.parts <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case buffer := <-c.buffers:
		return buffer[:0], nil
	default:
		return make([]byte, 0, c.options.PartSize), nil
	}
}

// release gives a part's memory to the next.
func (c *Client) release(buffer []byte) {
	c.buffers <- buffer // there is room for as many as there are parts
	<-c.parts
}

// finish sends the last part and waits until all are there.
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

// flush sends the part that has been filled, in the background.
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
		defer u.client.release(buffer)
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

// begin asks the cache for an upload.
func (u *upload) begin() error {
	var answer struct {
		NarID    string `json:"narId"`
		UploadID string `json:"uploadId"`
	}
	doing := "start the upload of " + u.path.Name() + " to"
	u.outages = u.client.hosts.outages(u.client.home.Host)
	err := u.client.do(u.ctx, call{doing: doing, method: http.MethodPost,
		url: u.client.api + "/multipart-nar?compression=zst", answer: &answer})
	if err != nil {
		return err
	}
	if answer.NarID == "" || answer.UploadID == "" {
		return &Error{Kind: NotCachix, Doing: doing, Cache: u.client.shown, Detail: "it names no upload"}
	}
	u.narID, u.uploadID = answer.NarID, answer.UploadID
	return nil
}

// url returns the address of a call about the upload.
func (u *upload) url(action, query string) string {
	return u.client.api + "/multipart-nar/" + url.PathEscape(u.narID) + action +
		"?uploadId=" + url.QueryEscape(u.uploadID) + query
}

// send sends one part and returns the ETag under which the cache has it. Each attempt
// asks for an address of its own, since one can expire.
func (u *upload) send(number int, content []byte) (eTag string, err error) {
	sum := md5.Sum(content)
	contentMD5 := base64.StdEncoding.EncodeToString(sum[:])
	doing := fmt.Sprintf("send part %d of %s to", number, u.path.Name())
	err = u.client.retry(u.ctx, func() error {
		var answer struct {
			UploadURL string `json:"uploadUrl"`
		}
		err := u.client.once(u.ctx, call{doing: doing, method: http.MethodPost,
			url:  u.url("", "&partNumber="+strconv.Itoa(number)),
			body: map[string]string{"contentMD5": contentMD5}, answer: &answer})
		if err == nil {
			eTag, err = u.put(doing, answer.UploadURL, contentMD5, content)
		}
		return err
	})
	return eTag, err
}

// put sends a part's bytes to the address that the cache has given for it, which is
// a secret: it can hold the API key or stand for it.
func (u *upload) put(doing, address, contentMD5 string, content []byte) (eTag string, err error) {
	c := u.client
	notCachix := func(detail string) error {
		return &Error{Kind: NotCachix, Doing: doing, Cache: c.shown, Detail: detail}
	}
	ctx, cancel := context.WithTimeout(u.ctx, c.options.PartTimeout)
	defer cancel()
	// The query stays as it is: it can hold base64 that nobody has escaped.
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, address, bytes.NewReader(content))
	if err != nil || request.URL.Host == "" || request.URL.Scheme != "http" && request.URL.Scheme != "https" {
		return "", notCachix("it gives no address to send a part to")
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("Content-MD5", contentMD5)
	response, _, err := c.exchange(request)
	if err != nil {
		return "", c.failed(u.ctx, doing, request, err)
	}
	if response.StatusCode/100 != 2 {
		// Without its words: an object store repeats there what it was asked, signed.
		failure := c.answered(doing, response, nil)
		if failure.Kind == KeyRefused {
			failure.Kind = Refused // it was not asked with the API key
		}
		return "", failure
	}
	c.answeredBy(request.URL.Host)
	if eTag = response.Header.Get("ETag"); eTag == "" {
		return "", notCachix("it does not confirm a part with an ETag")
	}
	return eTag, nil
}
