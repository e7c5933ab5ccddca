package devcache

import (
	"crypto/md5"
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

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"

	"iglu.sh/builder/internal/nar"
)

// completion is what announces a path.
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

// complete checks an upload and announces its path, or says what is wrong with it and
// leaves the upload as it is.
func (s *Server) complete(c cache, w http.ResponseWriter, r *http.Request) error {
	var request completion
	if err := decode(r, &request); err != nil {
		return err
	}
	u, err := c.opened(r)
	if err != nil {
		return err
	}
	if _, twice := s.completing.LoadOrStore(u.narID, true); twice {
		return refuse(http.StatusConflict, "the upload %s is being completed", u.narID)
	}
	defer s.completing.Delete(u.narID)
	info, err := s.narInfo(c, request)
	if err != nil {
		return err
	}
	file, err := u.join(request, s.options.MinPart)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	if err := check(file, info); err != nil {
		return err
	}
	if err := os.Rename(file, filepath.Join(c.folder, filepath.FromSlash(info.URL))); err != nil {
		return err
	}
	if err := replaceText(c.narInfoFile(request.NarInfo.StoreHash), info.String()); err != nil {
		return err
	}
	if err := u.remove(); err != nil {
		return err
	}
	return answer(w, map[string]string{})
}

// Forms of what stands in a narinfo. A name has at most 211 characters, and a hash is
// a SHA-256: 52 characters in Nix's base32.
var (
	baseName = regexp.MustCompile(`^[0-9a-df-np-sv-z]{32}-[0-9a-zA-Z+\-._?=]{1,211}$`)
	narHash  = regexp.MustCompile(`^sha256:[0-9a-df-np-sv-z]{52}$`)
	fileHash = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// narInfo makes the narinfo that is asked for, or says what is wrong with it.
func (s *Server) narInfo(c cache, request completion) (*narinfo.NarInfo, error) {
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
	return info, s.sign(c, info, *n.Signature)
}

// sign adds a signature, if it is by one of the cache's keys.
func (s *Server) sign(c cache, info *narinfo.NarInfo, text string) error {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return bad("cSig is not base64")
	}
	keys, err := s.publicKeys(c)
	if err != nil {
		return err
	}
	sig := signature.Signature{Name: c.name, Data: raw}
	for _, key := range keys {
		if key.Verify(info.Fingerprint(), sig) {
			info.Signatures = []signature.Signature{sig}
			return nil
		}
	}
	return bad("cSig is by none of the cache's %d keys, or not over what is announced", len(keys))
}

// join puts the parts of an upload together in a new file, and returns its path.
func (u upload) join(request completion, minPart int64) (path string, err error) {
	have, err := u.parts()
	if err != nil {
		return "", err
	}
	if len(request.Parts) == 0 || len(request.Parts) != len(have) {
		return "", bad("%d parts are listed, and %d were sent", len(request.Parts), len(have))
	}
	file, err := os.CreateTemp(u.folder, "joined-*")
	if err != nil {
		return "", err
	}
	for i, part := range request.Parts {
		if part.Number != i+1 || !have[part.Number] {
			err = bad("part %d is listed where part %d belongs, or was not sent", part.Number, i+1)
			break
		}
		if err = u.appendPart(file, part.Number, part.ETag, i == len(request.Parts)-1, minPart); err != nil {
			break
		}
	}
	if err = errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		os.Remove(file.Name())
		return "", err
	}
	return file.Name(), nil
}

// appendPart adds one part to a file.
func (u upload) appendPart(w io.Writer, number int, tag string, last bool, minPart int64) error {
	file, err := os.Open(u.partFile(number))
	if err != nil {
		return err
	}
	defer file.Close()
	sum := md5.New()
	size, err := io.Copy(io.MultiWriter(w, sum), file)
	switch {
	case err != nil:
		return err
	case size == 0 || size < minPart && !last:
		return bad("part %d has %d bytes, and all but the last have at least %d", number, size, minPart)
	case tag != eTag(sum.Sum(nil)):
		return bad("the eTag of part %d is not the one that it was given", number)
	}
	return nil
}

// check compares a compressed archive with what is announced of it.
func check(path string, info *narinfo.NarInfo) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	fileSum := sha256.New()
	fileSize, err := io.Copy(fileSum, file)
	if err != nil {
		return err
	}
	if err := compare("the file", fileSize, fileSum.Sum(nil), info.FileSize, info.FileHash); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return checkArchive(file, info)
}

// checkArchive unpacks an archive, no further than its announced size and a byte.
func checkArchive(file io.Reader, info *narinfo.NarInfo) error {
	decoder, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer decoder.Close()
	sum, size := sha256.New(), counter(0)
	archive := io.TeeReader(io.LimitReader(decoder, int64(min(info.NarSize, 1<<62)+1)), io.MultiWriter(sum, &size))
	if err := nar.Check(archive); err != nil {
		return bad("what the file holds is %v", err)
	}
	return compare("the archive", int64(size), sum.Sum(nil), info.NarSize, info.NarHash)
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
