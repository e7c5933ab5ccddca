package cachix

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"
)

// Pushed is what came of the push of a path.
type Pushed struct {
	FileHash Hash          // of the compressed archive
	FileSize int64         // of the compressed archive, in bytes
	Parts    int           // that it went up in
	Took     time.Duration // without the wait for a turn

	signature string // that it was announced with, or nothing
}

// Memory returns how many bytes a client with these options takes at most for what is
// being pushed, however many paths and however large: 137 MiB with the defaults on a machine
// of four CPUs or more, of which small paths touch only a little.
func (o Options) Memory() int64 {
	o = o.withDefaults()
	n := compressors()
	return int64(o.Parts)*int64(o.PartSize) + int64(o.Uploads+n)*frameMemory + int64(n)*encoderMemory
}

// Push sends a path and has the cache announce it, signed with key; with no key, the
// cache has to sign it. nar writes the path's archive to w (nar.Dump is one) and has
// to stop when w fails. Where the archive is not that of p, nothing is announced.
//
// An upload that the cache has lost, as when it has restarted, is begun anew once: nar is
// called again. What it has begun and does not finish it takes back, without waiting for
// that. It returns as soon as ctx ends and nar has returned; its errors are of all kinds, or
// nar's, or that of ctx.
func (c *Client) Push(ctx context.Context, p Path, nar func(w io.Writer) error, key *SigningKey) (Pushed, error) {
	if err := p.check(); err != nil {
		return Pushed{}, fmt.Errorf("push: %w", err)
	}
	select {
	case c.uploads <- struct{}{}:
	case <-ctx.Done():
		return Pushed{}, fmt.Errorf("push %s: %w", p.Name(), context.Cause(ctx))
	}
	defer func() { <-c.uploads }()
	start := time.Now()
	u, err := c.upload(ctx, p, nar, key)
	if err != nil && u.isLost(err) {
		c.say("the cache has lost what it had of %s, which goes up once more", p.Name())
		u, err = c.upload(ctx, p, nar, key)
	}
	if err != nil {
		return Pushed{}, err
	}
	pushed := u.pushed()
	pushed.Took = time.Since(start)
	return pushed, nil
}

// upload sends a path, and takes back what has been sent of one that fails.
func (c *Client) upload(ctx context.Context, p Path, nar func(w io.Writer) error, key *SigningKey) (*upload, error) {
	u := c.newUpload(ctx, p)
	err := u.push(nar, key)
	u.close()
	if err != nil {
		c.takeBack(u)
	}
	return u, err
}

// push sends the archive and announces the path.
func (u *upload) push(nar func(w io.Writer) error, key *SigningKey) error {
	if err := u.compress(nar); err != nil {
		// Why a part was not taken is the cause of whatever came of it.
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

// partsLost is how Iglu Cache says that it has thrown the parts of an upload away, as it does
// when it starts.
const partsLost = "Part file does not exist"

// isLost reports whether an upload has failed because the cache does not have it any more,
// or not all of it: it says so, or it was away since the upload began.
func (u *upload) isLost(err error) bool {
	failure, ok := errors.AsType[*Error](err)
	return ok && u.narID != "" && failure.Kind == Refused &&
		(failure.Status == http.StatusNotFound || strings.Contains(failure.Detail, partsLost) ||
			u.client.hosts.outages(u.client.home.Host) != u.outages)
}

// takeBack aborts an upload, and waits for nothing. Of uploads that a server does not answer
// to it only has options.Uploads to think about; the others are left to it, since caches
// throw away in time what was not completed.
func (c *Client) takeBack(u *upload) {
	if u.narID == "" { // nothing has begun
		return
	}
	select {
	case c.aborting <- struct{}{}:
	default:
		return
	}
	sent := sync.OnceFunc(c.abortsSent.Done)
	c.abortsSent.Add(1)
	c.aborts.Go(func() {
		defer func() { <-c.aborting }()
		defer sent()
		ctx, cancel := context.WithTimeout(c.abortCtx, c.options.AbortTimeout)
		defer cancel()
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent() }})
		// Nobody can do anything about an abort that fails.
		_ = c.once(ctx, call{doing: "abort an upload to", method: http.MethodPost, url: u.url("/abort", "")})
	})
}

// A meter takes an archive's hash and size as it goes by.
type meter struct {
	hash hash.Hash
	size int64
}

func (m *meter) Write(b []byte) (int, error) {
	m.size += int64(len(b))
	return m.hash.Write(b)
}

// compress runs the archive through its checks and the compression into parts.
func (u *upload) compress(nar func(w io.Writer) error) error {
	compression := u.client.compressor.compress(u)
	archive := &meter{hash: sha256.New()}
	err := compression.finish(nar(io.MultiWriter(archive, compression)))
	if err != nil {
		return fmt.Errorf("push %s: %w", u.path.Name(), err)
	}
	return u.compare(archive)
}

// compare checks the archive against what the store has on record.
func (u *upload) compare(archive *meter) error {
	wrong := &Error{Kind: WrongNar, Doing: "push " + u.path.Name() + " to", Cache: u.client.shown}
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

// completion is what makes a cache announce a path.
type completion struct {
	Parts   []part  `json:"parts"`
	NarInfo narInfo `json:"narInfoCreate"`
}

type narInfo struct {
	StoreHash   string   `json:"cStoreHash"`
	StoreSuffix string   `json:"cStoreSuffix"`
	NarHash     string   `json:"cNarHash"` // sha256:NIX-BASE32
	NarSize     int64    `json:"cNarSize"`
	FileHash    string   `json:"cFileHash"` // HEX
	FileSize    int64    `json:"cFileSize"`
	References  []string `json:"cReferences"` // base names
	Deriver     string   `json:"cDeriver"`    // a base name
	Signature   *string  `json:"cSig"`        // base64, without the key's name
}

// unknownDeriver is how Nix writes that it does not know a path's .drv.
const unknownDeriver = "unknown-deriver"

// announcement returns what the cache is to say of the path.
func (u *upload) announcement(key *SigningKey) narInfo {
	sum := u.fileHash()
	info := narInfo{
		StoreHash: u.path.Hash(), StoreSuffix: u.path.Name(),
		NarHash: u.path.NarHash.String(), NarSize: u.path.NarSize,
		FileHash: hex.EncodeToString(sum[:]), FileSize: u.size,
		References: []string{}, // not null
		Deriver:    unknownDeriver,
	}
	for _, reference := range u.path.references() {
		info.References = append(info.References, reference[len(StoreDir):])
	}
	if u.path.Deriver != "" {
		info.Deriver = u.path.Deriver[len(StoreDir):]
	}
	if key != nil {
		u.signature = key.Sign(u.path.Fingerprint())
		info.Signature = &u.signature
	}
	return info
}

// pushed returns what came of an upload that was announced.
func (u *upload) pushed() Pushed {
	return Pushed{FileHash: u.fileHash(), FileSize: u.size, Parts: len(u.sent), signature: u.signature}
}

// announce completes the upload. Where the answer to a completion was lost, the next
// attempt is refused, since there is nothing to complete any more: what counts is
// then what the cache says of the path.
func (u *upload) announce(key *SigningKey) error {
	err := u.client.do(u.ctx, call{doing: "complete the upload of " + u.path.Name() + " to", method: http.MethodPost,
		url: u.url("/complete", ""), body: completion{Parts: u.sent, NarInfo: u.announcement(key)}})
	failure, ok := errors.AsType[*Error](err)
	if !ok || failure.Kind == KeyRefused {
		return err
	}
	if u.client.verifyOnce(u.ctx, u.path, u.pushed(), publicOf(key)) == nil {
		return nil
	}
	return err
}
