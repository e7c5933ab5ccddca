package cachix

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// magics has the first bytes of a compressed archive, by the Compression in its narinfo.
var magics = map[string]string{
	"zstd":  "\x28\xb5\x2f\xfd",
	"xz":    "\xfd7zXZ\x00",
	"bzip2": "BZh", // also the default, without a Compression
	"none":  "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1",
}

const (
	// narBegin is how many bytes of an archive are asked for: no fewer than the longest of
	// the magics has.
	narBegin = 32
	// narDrain is how many more bytes of an answer are read, so that its connection can be used again.
	narDrain = 64 << 10
	// maxRedirects is how many redirects are followed. Caches redirect to object stores.
	maxRedirects = 5
)

// checkNar checks that the archive of a narinfo exists. It requests its beginning by GET, and checks these
// bytes, because some caches answer 200 to every HEAD, and to every address that does not exist.
func (r *reader) checkNar(ctx context.Context, p Path, fields narInfoFields) error {
	at, err := url.Parse(r.at + "/")
	if err == nil {
		at, err = at.Parse(fields["URL"][0])
	}
	if err != nil {
		return &Error{Kind: NotAsPushed, Doing: r.verifying(p), Cache: r.transport.shown, Detail: "its URL is none"}
	}
	attempt, cancel := context.WithTimeout(ctx, r.transport.options.CallTimeout)
	defer cancel()
	for range maxRedirects {
		next, err := r.narAt(ctx, attempt, p, fields, at)
		if next == nil || err != nil {
			return err
		}
		at = next
	}
	return &Error{Kind: NotAsPushed, Doing: r.verifying(p), Cache: r.transport.shown, Detail: "its NAR is always elsewhere"}
}

// narAt looks for an archive at an address. If the answer is a redirect, it returns the target. attempt is
// derived from ctx.
func (r *reader) narAt(ctx, attempt context.Context, p Path, fields narInfoFields, at *url.URL) (elsewhere *url.URL, err error) {
	request, err := http.NewRequestWithContext(attempt, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, r.transport.failed(ctx, r.verifying(p), nil, err)
	}
	ours := r.transport.isOurs(at)
	if ours {
		r.transport.authorize(request)
	}
	request.Header.Set("User-Agent", userAgent)
	request.Header.Set("Range", fmt.Sprintf("bytes=0-%d", narBegin-1))
	response, err := r.transport.http.Do(request)
	if err != nil {
		return nil, r.transport.failed(ctx, r.verifying(p), request, err)
	}
	defer response.Body.Close()
	switch status := response.StatusCode; {
	case status == http.StatusOK || status == http.StatusPartialContent:
	case isNotThere(status, ours):
		return nil, r.notThere(r.verifying(p), request, status, "its narinfo is there, and its NAR is not")
	case status/100 == 3 && response.Header.Get("Location") != "":
		elsewhere, err := response.Location()
		if err != nil || elsewhere.Scheme != "http" && elsewhere.Scheme != "https" {
			return nil, r.transport.answered(r.verifying(p), response, nil)
		}
		return elsewhere, nil
	default:
		failure := r.transport.answered(r.verifying(p), response, nil) // an object store's message can contain secrets
		if failure.Kind == KeyRefused && !ours {
			failure.Kind = Refused // it was not asked with the API key
		}
		return nil, failure
	}
	begin, err := io.ReadAll(io.LimitReader(response.Body, narBegin))
	if err != nil {
		return nil, r.transport.failed(ctx, r.verifying(p), request, err)
	}
	_, _ = io.CopyN(io.Discard, response.Body, narDrain)
	if wrong := fields.checkBegin(begin, narSize(response)); wrong != "" {
		return nil, &Error{Kind: NotAsPushed, Doing: r.verifying(p), Cache: r.transport.shown, Detail: wrong}
	}
	r.transport.hosts.answered(request.URL.Host)
	return nil, nil
}

// narSize returns the size of an archive in bytes, from an answer with its first bytes, or -1 if the answer
// does not have it.
func narSize(response *http.Response) int64 {
	if response.StatusCode == http.StatusOK {
		return response.ContentLength
	}
	_, total, _ := strings.Cut(response.Header.Get("Content-Range"), "/")
	size, err := strconv.ParseInt(total, 10, 64)
	if err != nil {
		return -1
	}
	return size
}

// checkBegin returns what is wrong with the beginning or the size of an archive, or "".
func (f narInfoFields) checkBegin(begin []byte, size int64) string {
	if want, err := f.one("FileSize"); err == nil && size >= 0 && want != strconv.FormatInt(size, 10) {
		return fmt.Sprintf("its NAR has %d bytes, and %.20s in the narinfo", size, want)
	}
	compression := "bzip2"
	if named, err := f.one("Compression"); err == nil {
		compression = named
	}
	if len(begin) == 0 || !bytes.HasPrefix(begin, []byte(magics[compression])) {
		return fmt.Sprintf("its NAR is not compressed with %.20q, as its narinfo says", compression)
	}
	return ""
}
