package cachix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"iglu.sh/builder/internal/nar"
	"iglu.sh/builder/test/kit/devcache"
)

// tree makes a folder with every kind of file that a path can contain, and returns its sample.
func tree(t *testing.T, name string, references ...string) sample {
	t.Helper()
	root := filepath.Join(t.TempDir(), name)
	files := []string{"bin/run", "share/empty", "share/with space", "share/öä枝", "share/new\nline", "share/\xff\xfe",
		"share/..dots", "share/...", "share/.hidden", "share/a", "share/a.b", "share/a-b", "share/A", "share/a0/b",
		"share/" + strings.Repeat("n", 255)}
	for i, file := range files {
		path := filepath.Join(root, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, bytes.Repeat([]byte{'x'}, i*7), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.Chmod(root+"/bin/run", 0o755), os.Truncate(root+"/share/empty", 0),
		os.Symlink("../bin/run", root+"/share/link"), os.Symlink("/nowhere at all", root+"/share/dangling"),
		os.Mkdir(root+"/share/nothing", 0o755))
	if err != nil {
		t.Fatal(err)
	}
	return describe(t, name, func(w io.Writer) error { return nar.Dump(w, root) }, references...)
}

// A pushed archive is read back byte for byte. go-nix reads its narinfo and verifies its signature.
func TestPush(t *testing.T) {
	w := newFixture(t, quick())
	s := tree(t, "every+thing-1.0_?=x", storePathOf("z-lib"), storePathOf("a-lib"), storePathOf("z-lib"), storePathOf("every+thing-1.0_?=x"))
	s.Deriver = storePathOf("every+thing-1.0_?=x.drv")
	for _, s := range []sample{s, small(t), large(t)} {
		pushed, err := w.push(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := recorder.keep(w.Verify(t.Context(), s.Path, pushed, w.key)); err != nil {
			t.Error(err)
		}
		var want bytes.Buffer
		s.nar(&want)
		if !bytes.Equal(w.archive(s.Path), want.Bytes()) {
			t.Errorf("%s: what was read back is not what was pushed", s.Name())
		}
		w.checkNarInfo(s.Path, pushed)
	}
	if n := w.uploads(); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
}

// checkNarInfo reads a narinfo with go-nix, and verifies its signature.
func (w *fixture) checkNarInfo(p Path, pushed Pushed) {
	w.t.Helper()
	info, err := narinfo.Parse(bytes.NewReader(w.get(p.Hash() + ".narinfo")))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := info.Check(); err != nil {
		w.t.Error(err)
	}
	key, err := signature.ParsePublicKey("default:" + w.key.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	if !signature.VerifyFirst(info.Fingerprint(), info.Signatures, []signature.PublicKey{key}) {
		w.t.Errorf("%s: its signature is wrong", p.Name())
	}
	if diff := cmp.Diff(p.Fingerprint(), info.Fingerprint()); diff != "" {
		w.t.Errorf("fingerprint (-ours +go-nix's):\n%s", diff)
	}
	if info.FileSize != uint64(pushed.FileSize) || info.FileHash.String() != pushed.FileHash.String() {
		w.t.Errorf("%s: file %s of %d bytes, want %s of %d", p.Name(), info.FileHash, info.FileSize, pushed.FileHash, pushed.FileSize)
	}
	if want := strings.TrimPrefix(p.Deriver, StoreDir); info.Deriver != want {
		w.t.Errorf("%s: deriver %q, want %q", p.Name(), info.Deriver, want)
	}
}

// Archives of any size, written in pieces of any size, are read back unchanged, also at the limits of parts.
func TestPushProperty(t *testing.T) {
	w := newFixture(t, quick())
	r := rand.New(rand.NewPCG(1, 2))
	sizes := []int64{0, 1, 7, 8, 9, 65535, 65536, 65537}
	for _, parts := range []int64{1, 2, 3} {
		for _, off := range []int64{-1000, -200, -150, 0, 1} {
			sizes = append(sizes, parts*testPart+off)
		}
	}
	for range 20 {
		sizes = append(sizes, r.Int64N(1<<uint(1+r.IntN(20))))
	}
	for i, size := range sizes {
		nar := file(uint64(i), size)
		pieces := 1 + r.IntN(100000)
		s := describe(t, fmt.Sprint("file-", i), func(w io.Writer) error { return nar(inPieces{w, pieces}) })
		pushed, err := w.push(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		nar(&want)
		if !bytes.Equal(w.archive(s.Path), want.Bytes()) {
			t.Errorf("%d bytes: what was read back is not what was pushed", size)
		}
		if want := int((pushed.FileSize + testPart - 1) / testPart); pushed.Parts != want {
			t.Errorf("%d bytes: %d parts of a file of %d bytes, want %d", size, pushed.Parts, pushed.FileSize, want)
		}
	}
}

// inPieces writes at most size bytes at once.
type inPieces struct {
	w    io.Writer
	size int
}

func (p inPieces) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var m int
		m, err = p.w.Write(b[:min(p.size, len(b))])
		n, b = n+m, b[m:]
	}
	return n, err
}

// A file that fills a part to the byte is one part.
func TestFullPart(t *testing.T) {
	u := newFixture(t, quick()).uploader.newUpload(t.Context(), small(t).Path)
	if _, err := u.Write(make([]byte, testPart)); err != nil {
		t.Fatal(err)
	}
	if len(u.sent) != 0 {
		t.Error("a part has gone before it was clear that it is not the last")
	}
	if err := u.finish(); err != nil {
		t.Fatal(err)
	}
	if len(u.sent) != 1 {
		t.Errorf("%d parts, want 1", len(u.sent))
	}
	u.close()
}

// Many small paths are pushed, eight at once. Then none is missing.
func TestManyPaths(t *testing.T) {
	const count = 300 // 'make bench' pushes 2,000
	w := newFixture(t, Options{})
	samples := make([]sample, count)
	var hashes []string
	for i := range samples {
		samples[i] = describe(t, fmt.Sprintf("path-%d", i), file(uint64(i), int64(i)))
		hashes = append(hashes, samples[i].Hash())
	}
	missing, err := w.Missing(t.Context(), hashes)
	if err != nil || len(missing) != count {
		t.Fatalf("%d are missing at first, want %d; error %v", len(missing), count, err)
	}
	start := time.Now()
	var group sync.WaitGroup
	for worker := range 16 {
		group.Go(func() {
			for i := worker; i < count; i += 16 {
				if _, err := w.push(t.Context(), samples[i]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	t.Logf("%d paths in %v", count, time.Since(start).Round(time.Millisecond))
	if missing, err = w.Missing(t.Context(), hashes); err != nil || len(missing) > 0 {
		t.Errorf("%d are missing at last; error %v", len(missing), err)
	}
	for _, i := range []int{0, 1, count / 2, count - 1} {
		if err := recorder.keep(w.Verify(t.Context(), samples[i].Path, Pushed{}, w.key)); err != nil {
			t.Error(err)
		}
	}
}

// serveForever is the other process of TestMemory: a cache, until its input ends.
func serveForever(folder string) {
	cache, err := devcache.New(devcache.Options{Folder: folder, Token: token, Names: []string{"default"}})
	if err == nil {
		err = serveUntilEOF(cache)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// startCache runs a cache in a process of its own and returns a client of it.
func startCache(t *testing.T, options Options) *fixture {
	t.Helper()
	w := &fixture{t: t, folder: t.TempDir(), key: newKey(t)}
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), cacheFolderEnv+"="+w.folder)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		command.Wait()
	})
	if _, err := fmt.Fscanln(stdout, &w.url); err != nil {
		t.Fatal(err)
	}
	w.Client = newClient(t, w.url+"/default", options)
	w.register()
	return w
}

// spent returns how many bytes of objects are on the heap now, dead ones that have not
// been collected yet among them.
func spent() int64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}

// One path of hugeSize, and then four of 8 MiB at once, each take no more than the
// documented memory.
func TestMemory(t *testing.T) {
	const (
		// overhead is for what the HTTP client and the garbage collector hold in addition to the
		// pushed data.
		overhead = 12 << 20
	)
	options := quick()
	options.Uploads, options.Parts, options.PartSize = 2, 4, minPartSize
	w := startCache(t, options)
	samples := []sample{describe(t, "huge", file(1, hugeSize))}
	for i := range 4 {
		samples = append(samples, describe(t, fmt.Sprint("big-", i), file(uint64(i), 8<<20)))
	}
	runtime.GC()
	before := spent()
	var peak atomic.Int64
	watch := func(nar func(io.Writer) error) func(io.Writer) error {
		return func(w io.Writer) error { return nar(watched{w, &peak}) }
	}
	start := time.Now()
	if _, err := recorder.keepPushed(w.Push(t.Context(), samples[0].Path, watch(samples[0].nar), w.key)); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB in %v", hugeSize>>20, time.Since(start).Round(time.Millisecond))
	var group sync.WaitGroup
	for _, s := range samples[1:] {
		group.Go(func() {
			if _, err := recorder.keepPushed(w.Push(t.Context(), s.Path, watch(s.nar), w.key)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	took, bound := peak.Load()-before, options.Memory()
	t.Logf("peak %.1f MiB, bound %.1f MiB and %d MiB beside it", mib(took), mib(bound), overhead>>20)
	if took > bound+overhead {
		t.Errorf("peak %.1f MiB, want at most %.1f", mib(took), mib(bound+overhead))
	}
	if took < bound/4 {
		t.Errorf("peak %.1f MiB, as if nothing had been measured", mib(took))
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// watched measures the memory at each write, and keeps the peak.
type watched struct {
	w    io.Writer
	peak *atomic.Int64
}

func (w watched) Write(b []byte) (int, error) {
	if n := spent(); n > w.peak.Load() {
		w.peak.Store(n)
	}
	return w.w.Write(b)
}

func (r *secretRecorder) keepPushed(p Pushed, err error) (Pushed, error) { return p, r.keep(err) }

// While the cache accepts no part, the client reads no more of an archive than fits in the parts in memory and in
// the few frames that are being compressed.
func TestPartsAreBounded(t *testing.T) {
	blocks := int64(2+compressors()) * frameSize
	options := quick()
	options.Parts = 3
	w := newFixture(t, options)
	w.cache.Misbehave(devcache.On("PUT", sentPart, devcache.Hang()))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var taken atomic.Int64
	s := small(t)
	_, err := recorder.keepPushed(w.Push(ctx, s.Path, func(w io.Writer) error {
		return file(1, 1<<40)(counted{w, &taken})
	}, w.key))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
	if got := taken.Load(); got < 3*testPart || got > 3*testPart+blocks {
		t.Errorf("%d bytes were taken, want %d to %d", got, 3*testPart, 3*testPart+blocks)
	}
}

// counted counts the bytes that were written.
type counted struct {
	w     io.Writer
	taken *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	if err == nil {
		c.taken.Add(int64(n))
	}
	return n, err
}

// The compression takes no more than the documented memory for any input.
func TestCompressorMemory(t *testing.T) {
	const uploads = 3
	live := func() int64 { runtime.GC(); runtime.GC(); return spent() }
	before := live()
	c := newCompressor(uploads)
	var compressions []*compression
	for i := range uploads {
		compressions = append(compressions, c.compress(io.Discard))
		if err := file(uint64(i), 8<<20)(compressions[i]); err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			fmt.Fprintf(compressions[i], "%s%d", strings.Repeat("text that compresses ", 100), i)
		}
	}
	took := live() - before
	for _, compression := range compressions {
		if err := compression.finish(nil); err != nil {
			t.Error(err)
		}
	}
	bound := int64(uploads+compressors())*frameMemory + int64(compressors())*encoderMemory
	t.Logf("%.1f MiB, bound %.1f MiB", mib(took), mib(bound))
	if took > bound || took < bound/4 {
		t.Errorf("%.1f MiB, want at most %.1f", mib(took), mib(bound))
	}
	runtime.KeepAlive(c)
}

// The documentation says how much memory a client takes by default.
func TestDefaultMemory(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(maxCompressors))
	if got := fmt.Sprintf("%.0f MiB", mib(Options{}.Memory())); got != "137 MiB" {
		t.Errorf("got %s", got)
	}
}

// A frame's memory grows with its content, but not beyond its size.
func TestFrameGrows(t *testing.T) {
	for _, size := range []int{1, 1000, 100_000, frameSize} {
		f, chunk := new(frame), make([]byte, size)
		for len(f.content)+size <= frameSize {
			f.add(chunk)
			if got := cap(f.content); got > min(2*len(f.content), frameSize) {
				t.Fatalf("in chunks of %d: %d bytes take %d", size, len(f.content), got)
			}
		}
	}
}

// Frames are complete and in the archive's order, however the archive is written and however many archives there are
// at once. No memory is leaked.
func TestFrames(t *testing.T) {
	c := newCompressor(4)
	var archives sync.WaitGroup
	for i := range 16 {
		archives.Go(func() {
			size := []int{0, 1, frameSize - 1, frameSize, frameSize + 1, 7*frameSize + 5}[i%6]
			content := make([]byte, size)
			rand.NewChaCha8([32]byte{byte(i)}).Read(content[:size/2]) // the rest can be compressed
			var compressed bytes.Buffer
			w := c.compress(&compressed)
			for rest := content; len(rest) > 0; {
				n := min(len(rest), 100_000*(i+1))
				if _, err := w.Write(rest[:n]); err != nil {
					t.Error(err)
				}
				rest = rest[n:]
			}
			if err := w.finish(nil); err != nil {
				t.Error(err)
			}
			decoder, err := zstd.NewReader(&compressed)
			if err != nil {
				t.Error(err)
				return
			}
			defer decoder.Close()
			if got, err := io.ReadAll(decoder); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes became %d, %v", size, len(got), err)
			}
		})
	}
	archives.Wait()
	if len(c.spare) > 0 || len(c.turns) > 0 {
		t.Errorf("%d frames to spare and %d turns are not given back", len(c.spare), len(c.turns))
	}
}

// When a write of the compressed archive fails, there are no more writes, and the first error is returned.
func TestFramesFail(t *testing.T) {
	c := newCompressor(1)
	full := errors.New("full")
	writes := 0
	w := c.compress(writerFunc(func(b []byte) (int, error) {
		writes++
		return 0, full
	}))
	_, err := w.Write(make([]byte, 20*frameSize))
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if err := w.finish(io.ErrUnexpectedEOF); !errors.Is(err, full) || writes != 1 || len(c.spare) > 0 {
		t.Errorf("got %v after %d writes, %d spare frames", err, writes, len(c.spare))
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// An archive that differs from the store's record is not announced.
func TestWrongArchive(t *testing.T) {
	w := newFixture(t, quick())
	for _, s := range []sample{small(t), large(t)} {
		longer, other, failing := s, s, s
		longer.NarSize++
		other.NarHash[0] ^= 1
		failing.nar = func(w io.Writer) error {
			s.nar(w)
			return io.ErrUnexpectedEOF
		}
		for _, s := range []sample{longer, other} {
			if _, err := w.push(t.Context(), s); !errors.Is(err, WrongNar) {
				t.Errorf("error %v, want %v", err, WrongNar)
			}
		}
		if _, err := w.push(t.Context(), failing); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("error %v, want that of the archive", err)
		}
		if w.announced(s.Path) {
			t.Errorf("%s has been announced", s.Name())
		}
	}
	w.uploader.aborter.aborts.Wait()
	if n := w.uploads(); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
}

func TestPathsThatAreNone(t *testing.T) {
	w := newFixture(t, quick())
	good := small(t)
	for name, change := range map[string]func(*Path){
		"elsewhere":  func(p *Path) { p.StorePath = strings.Replace(p.StorePath, "/nix/store", "/var/store", 1) },
		"below":      func(p *Path) { p.StorePath += "/bin" },
		"no name":    func(p *Path) { p.StorePath = p.StorePath[:len(StoreDir)+hashLen+1] },
		"short hash": func(p *Path) { p.StorePath = StoreDir + "abc-name" },
		"bad hash":   func(p *Path) { p.StorePath = StoreDir + strings.Repeat("e", hashLen) + "-name" },
		"line end":   func(p *Path) { p.StorePath += "\n" },
		"reference":  func(p *Path) { p.References = []string{"name"} },
		"deriver":    func(p *Path) { p.Deriver = "name.drv" },
		"no size":    func(p *Path) { p.NarSize = 0 },
		"nothing":    func(p *Path) { *p = Path{} },
	} {
		s, read := good, false
		change(&s.Path)
		s.nar = func(io.Writer) error { read = true; return nil }
		if _, err := w.push(t.Context(), s); err == nil || read {
			t.Errorf("%s: error %v, its archive is read: %t", name, err, read)
		}
	}
	if missing, err := w.Missing(t.Context(), []string{good.Hash()}); err != nil || !slices.Equal(missing, []string{good.Hash()}) {
		t.Errorf("missing %v, error %v", missing, err)
	}
}

// A push that waits for its turn ends with its ctx too.
func TestCancelWhileWaiting(t *testing.T) {
	options := quick()
	options.Uploads = 1
	w := newFixture(t, options)
	s := small(t)
	inside, out := make(chan bool), make(chan bool)
	var group sync.WaitGroup
	group.Go(func() {
		_, err := recorder.keepPushed(w.Push(t.Context(), s.Path, func(w io.Writer) error {
			inside <- true
			<-out
			return s.nar(w)
		}, w.key))
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := w.push(ctx, large(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
	close(out)
	group.Wait()
}
