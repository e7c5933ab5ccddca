package cachix

import (
	"encoding/hex"
	"errors"
	"net/http"
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

// announce completes the upload. If the answer to a completion was lost, the next attempt is refused,
// because the upload is complete already. Then the cache's narinfo of the path decides.
func (u *upload) announce(key *SigningKey) error {
	err := u.by.retrier.do(u.ctx, call{doing: "complete the upload of " + u.path.Name() + " to", method: http.MethodPost,
		url: u.url("/complete", ""), body: completion{Parts: u.sent, NarInfo: u.announcement(key)}})
	failure, ok := errors.AsType[*Error](err)
	if !ok || failure.Kind == KeyRefused {
		return err
	}
	if u.by.reader.verify(u.ctx, u.path, u.pushed(), publicOf(key)) == nil {
		return nil
	}
	return err
}
