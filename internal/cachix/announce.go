package cachix

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// A completion is the request to complete an upload. The cache then announces the path.
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

// unknownDeriver is Nix's value for a deriver that is not known.
const unknownDeriver = "unknown-deriver"

// announcement returns the path's metadata, which the cache will publish.
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

// pushed returns the result of an upload that was announced.
func (u *upload) pushed() Pushed {
	return Pushed{FileHash: u.fileHash(), FileSize: u.size, Parts: len(u.sent), signature: u.signature}
}

// joinRate is how many bytes of an archive a slow cache puts together in a second, when an upload is completed. Iglu Cache
// reads all parts, writes them to one file and reads that again, before it answers.
const joinRate = 8 << 20

// joinTime returns how long a cache may take to put the archive together.
func (u *upload) joinTime() time.Duration {
	return time.Duration(u.size/u.by.joinRate) * time.Second
}

// announce completes the upload. If the answer to a completion was lost, the next attempt is refused,
// because the upload is complete already, or about to be. Then the cache's narinfo of the path decides.
func (u *upload) announce(key *SigningKey) error {
	begun, late := time.Now(), false
	err := u.by.retrier.retry(u.ctx, func() error {
		err := u.by.transport.once(u.ctx, call{doing: "complete the upload of " + u.path.Name() + " to", method: http.MethodPost,
			url: u.url("/complete", ""), body: completion{Parts: u.sent, NarInfo: u.announcement(key)},
			extra: max(0, u.joinTime()-time.Since(begun))})
		late = late || isLate(err)
		return err
	})
	failure, ok := errors.AsType[*Error](err)
	if !ok || failure.Kind == KeyRefused {
		return err
	}
	for u.by.reader.verify(u.ctx, u.path, u.pushed(), publicOf(key)) != nil {
		if !late || time.Since(begun) >= u.joinTime() {
			return err
		}
		select {
		case <-time.After(maxPause):
		case <-u.ctx.Done():
			return fmt.Errorf("%w; not waited for any more: %w", err, context.Cause(u.ctx))
		}
	}
	return nil
}

// statusTimeout is Cloudflare's status for a server that has not answered in time.
const statusTimeout = 524

// isLate reports whether a cache, or the server behind a proxy, has not answered in time, and may still do what it was
// asked to do.
func isLate(err error) bool {
	failure, ok := errors.AsType[*Error](err)
	return ok && (failure.Kind == TimedOut || failure.Status == http.StatusGatewayTimeout || failure.Status == statusTimeout)
}
