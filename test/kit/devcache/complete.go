package devcache

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"

	"iglu.sh/builder/test/kit/narcheck"
)

// completion is the request that completes an upload and announces its path.
type completion struct {
	Parts []struct {
		Number int    `json:"partNumber"`
		ETag   string `json:"eTag"`
	} `json:"parts"`
	NarInfo *struct {
		StoreHash   string   `json:"cStoreHash"`
		StoreSuffix string   `json:"cStoreSuffix"`
		NarHash     string   `json:"cNarHash"`
		NarSize     uint64   `json:"cNarSize"`
		FileHash    string   `json:"cFileHash"`
		FileSize    uint64   `json:"cFileSize"`
		References  []string `json:"cReferences"`
		Deriver     string   `json:"cDeriver"`
		Signature   *string  `json:"cSig"`
	} `json:"narInfoCreate"`
}

// complete checks an upload and announces its path. If a check fails, it returns the error and keeps the
// upload unchanged.
func (s *Server) complete(c *cache, w http.ResponseWriter, r *http.Request) error {
	var request completion
	if err := decode(r, &request); err != nil {
		return err
	}
	u, err := c.opened(r)
	if err != nil {
		return err
	}
	if err := u.lock(); err != nil {
		return err
	}
	defer u.mu.Unlock()
	info, err := c.narInfo(request)
	if err != nil {
		return err
	}
	if err := u.checkParts(request, s.options.MinPart); err != nil {
		return err
	}
	if err := u.check(info, &s.unpackers); err != nil {
		return err
	}
	if err := errors.Join(c.announce(u, info, request.NarInfo.StoreHash), c.end(u)); err != nil {
		return err
	}
	return answer(w, map[string]string{})
}

// Patterns of values in a narinfo. A name has at most 211 characters. A hash is a SHA-256: 52 characters in
// Nix's base32.
var (
	baseName = regexp.MustCompile(`^[0-9a-df-np-sv-z]{32}-[0-9a-zA-Z+\-._?=]{1,211}$`)
	narHash  = regexp.MustCompile(`^sha256:[0-9a-df-np-sv-z]{52}$`)
	fileHash = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// narInfo makes the narinfo of a request, or returns an error that says what is wrong with the request.
func (c *cache) narInfo(request completion) (*narinfo.NarInfo, error) {
	n := request.NarInfo
	switch {
	case n == nil:
		return nil, bad("narInfoCreate is missing")
	case !baseName.MatchString(n.StoreHash + "-" + n.StoreSuffix):
		return nil, bad("%.300q is not the name of a store path", n.StoreHash+"-"+n.StoreSuffix)
	case !narHash.MatchString(n.NarHash):
		return nil, bad("cNarHash is not sha256: and 52 characters of Nix's base32")
	case !fileHash.MatchString(n.FileHash):
		return nil, bad("cFileHash is not the hexadecimal form of a SHA-256")
	case n.References == nil:
		return nil, bad("cReferences is missing")
	case !slices.IsSorted(n.References):
		return nil, bad("cReferences are not sorted")
	case len(slices.Compact(slices.Clone(n.References))) != len(n.References):
		return nil, bad("a reference stands twice among cReferences")
	case slices.ContainsFunc(n.References, func(r string) bool { return !baseName.MatchString(r) }):
		return nil, bad("one of cReferences is not the base name of a store path")
	case n.Deriver != "unknown-deriver" && !(baseName.MatchString(n.Deriver) && strings.HasSuffix(n.Deriver, ".drv")):
		return nil, bad("cDeriver is neither the base name of a .drv nor unknown-deriver")
	case n.Signature == nil:
		return nil, bad("cSig is missing, and this cache does not sign")
	}
	hash, err := nixhash.ParseAny(n.NarHash, nil)
	if err != nil {
		return nil, bad("cNarHash: %v", err)
	}
	fileSum, err := hex.DecodeString(n.FileHash)
	if err != nil {
		return nil, bad("cFileHash: %v", err)
	}
	encoded := nixbase32.EncodeToString(fileSum)
	fileHash, err := nixhash.ParseAny("sha256:"+encoded, nil)
	if err != nil {
		return nil, err
	}
	info := &narinfo.NarInfo{
		StorePath: "/nix/store/" + n.StoreHash + "-" + n.StoreSuffix,
		URL:       narFolder + "/" + encoded + ".nar.zst", Compression: "zstd",
		FileHash: fileHash, FileSize: n.FileSize, NarHash: hash, NarSize: n.NarSize,
		References: n.References,
	}
	if n.Deriver != "unknown-deriver" {
		info.Deriver = n.Deriver
	}
	return info, c.sign(info, *n.Signature)
}

// sign adds a signature if one of the cache's keys made it.
func (c *cache) sign(info *narinfo.NarInfo, text string) error {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return bad("cSig is not base64")
	}
	keys := c.publicKeys()
	sig := signature.Signature{Name: c.name, Data: raw}
	for _, key := range keys {
		if key.Verify(info.Fingerprint(), sig) {
			info.Signatures = []signature.Signature{sig}
			return nil
		}
	}
	return bad("cSig is by none of the cache's %d keys, or not over what is announced", len(keys))
}

// checkParts compares the parts listed in a request with the parts received.
func (u *upload) checkParts(request completion, minPart int64) error {
	if len(request.Parts) == 0 || len(request.Parts) != len(u.parts) {
		return bad("%d parts are listed, and %d were sent", len(request.Parts), len(u.parts))
	}
	for i, listed := range request.Parts {
		number, last := listed.Number, i == len(request.Parts)-1
		p, sent := u.parts[number]
		switch {
		case number != i+1 || !sent:
			return bad("part %d is listed where part %d belongs, or was not sent", number, i+1)
		case p.size == 0 || p.size < minPart && !last:
			return bad("part %d has %d bytes, and all but the last have at least %d", number, p.size, minPart)
		case listed.ETag != p.eTag:
			return bad("the eTag of part %d is not the one that it was given", number)
		}
	}
	return nil
}

// check reads an upload's parts once and compares the compressed file and the archive in it with the narinfo.
func (u *upload) check(info *narinfo.NarInfo, unpackers *sync.Pool) error {
	parts := &partReader{u: u}
	defer parts.close()
	sum, size := sha256.New(), counter(0)
	file := io.TeeReader(parts, io.MultiWriter(sum, &size))
	wrong := checkArchive(file, info, unpackers)
	// The file is read to its end, because its errors are reported before those of the archive.
	if _, err := io.Copy(io.Discard, file); err != nil {
		return err
	}
	if err := compare("the file", int64(size), sum.Sum(nil), info.FileSize, info.FileHash); err != nil {
		return err
	}
	return wrong
}

// A partReader reads the parts of an upload one after the other.
type partReader struct {
	u      *upload
	number int // of the part in file
	file   *os.File
}

func (r *partReader) Read(b []byte) (int, error) {
	for {
		if r.file != nil {
			if n, err := r.file.Read(b); err != io.EOF {
				return n, err
			}
		}
		if r.number == len(r.u.parts) {
			return 0, io.EOF
		}
		next, err := os.Open(r.u.parts[r.number+1].file)
		if err != nil {
			return 0, err
		}
		r.close()
		r.file, r.number = next, r.number+1
	}
}

func (r *partReader) close() { r.file.Close() } // before the first part there is no file, and the error is ignored

// An unpacker has the buffers for unpacking a file. They are reused.
type unpacker struct {
	file    *bufio.Reader // because the decoder reads a few bytes at a time
	decoder *zstd.Decoder
}

func newUnpacker() any {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err) // only wrong options fail
	}
	return &unpacker{bufio.NewReaderSize(nil, copyBuffer), decoder}
}

// checkArchive unpacks an archive and checks it. It stops one byte after the announced size.
func checkArchive(file io.Reader, info *narinfo.NarInfo, unpackers *sync.Pool) error {
	u := unpackers.Get().(*unpacker)
	defer unpackers.Put(u)
	u.file.Reset(file)
	defer u.file.Reset(nil) // otherwise it would keep the upload in memory
	if err := u.decoder.Reset(u.file); err != nil {
		return err
	}
	sum, size := sha256.New(), counter(0)
	archive := io.TeeReader(io.LimitReader(u.decoder, int64(min(info.NarSize, 1<<62)+1)), io.MultiWriter(sum, &size))
	if err := narcheck.Check(archive); err != nil {
		return bad("what the file holds is %v", err)
	}
	return compare("the archive", int64(size), sum.Sum(nil), info.NarSize, info.NarHash)
}

// announce joins the parts to the archive's file, and then writes the narinfo, which makes the path
// visible to Nix.
func (c *cache) announce(u *upload, info *narinfo.NarInfo, storeHash string) error {
	if err := u.join(); err != nil {
		return err
	}
	if err := os.Rename(u.parts[1].file, filepath.Join(c.folder, filepath.FromSlash(info.URL))); err != nil {
		return err
	}
	delete(u.parts, 1)
	file, err := c.create()
	if err != nil {
		return err
	}
	_, err = io.WriteString(file, info.String())
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), c.narInfoFile(storeHash))
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// join appends all further parts to the first.
func (u *upload) join() error {
	if len(u.parts) == 1 {
		return nil
	}
	file, err := os.OpenFile(u.parts[1].file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	further := &partReader{u: u, number: 1}
	defer further.close()
	_, err = copyAll(file, further, copyBuffer)
	return errors.Join(err, file.Close())
}

type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

func compare(what string, size int64, sum []byte, wantSize uint64, want *nixhash.HashWithEncoding) error {
	if uint64(size) != wantSize {
		return bad("%s has %d bytes, and %d were announced", what, size, wantSize)
	}
	if !slices.Equal(sum, want.Digest()) {
		return bad("%s has the SHA-256 %x, and %x was announced", what, sum, want.Digest())
	}
	return nil
}
