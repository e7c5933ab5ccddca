package cachix

import (
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

const (
	// frameSize is how much of an archive is compressed at once, in bytes. What it costs to
	// forget what came before is less than a hundredth.
	frameSize = 1 << 20
	// maxCompressors bounds how many frames are compressed side by side, in all uploads
	// together: a cache takes no more than that, and the build wants the machine too.
	maxCompressors = 4
	// encoderMemory is what the encoder takes at most for each of them, in bytes: its
	// history of two windows, its tables and its blocks. TestEncoderMemory measures it.
	encoderMemory = 4 << 20
	// frameMemory is what a frame takes at most, in bytes: itself, and what it becomes.
	frameMemory = 2*frameSize + 64<<10
)

// compressors returns how many frames are compressed side by side.
func compressors() int { return min(runtime.GOMAXPROCS(0), maxCompressors) }

// A compressor compresses for all uploads of a client.
type compressor struct {
	encoder *zstd.Encoder
	turns   chan struct{} // holds a value for each frame that is being compressed
	spare   chan struct{} // holds a value for each frame in memory beyond one an upload
	frames  chan *frame   // to use again
}

func newCompressor(uploads int) *compressor {
	n := compressors()
	encoder, err := zstd.NewWriter(nil,
		// The next level makes programs 15 % smaller, in half as much time again that the
		// build needs too.
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(frameSize),
		zstd.WithEncoderConcurrency(n))
	if err != nil {
		panic("cachix: options of the encoder: " + err.Error())
	}
	return &compressor{encoder: encoder, turns: make(chan struct{}, n), spare: make(chan struct{}, n),
		frames: make(chan *frame, uploads+n)}
}

// frame is a piece of an archive: RFC 8878, section 3. Frames that follow each other are
// decompressed as what was in them, one after the other.
type frame struct {
	content, compressed []byte
	done                chan struct{} // closed when it is compressed
}

func (c *compressor) newFrame() *frame {
	select {
	case f := <-c.frames:
		f.content, f.done = f.content[:0], make(chan struct{})
		return f
	default:
		return &frame{done: make(chan struct{})}
	}
}

// recycle keeps a frame to be used again, if there are not as many as there can be uploads.
func (c *compressor) recycle(f *frame) {
	select {
	case c.frames <- f:
	default:
	}
}

// A compression is an archive on its way through a compressor. It is an io.Writer for one
// goroutine.
type compression struct {
	*compressor
	to      io.Writer
	filling *frame
	pending []*frame // under way, in the archive's order
	spares  int      // how many of the frames are beyond the one that every upload has
	failed  error    // why nothing is passed on any more
}

func (c *compressor) compress(to io.Writer) *compression {
	return &compression{compressor: c, to: to, filling: c.newFrame()}
}

// Write takes more of the archive. Its error is that of where the compressed archive goes.
func (c *compression) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		if len(c.filling.content) == frameSize {
			if err := c.next(); err != nil {
				return 0, err
			}
		}
		n := min(len(rest), frameSize-len(c.filling.content))
		c.filling.add(rest[:n])
		rest = rest[n:]
	}
	return len(b), nil
}

// add adds to a frame. Most paths are small, and so is what is taken for them.
func (f *frame) add(b []byte) {
	if need := len(f.content) + len(b); need > cap(f.content) {
		f.content = append(make([]byte, 0, min(max(2*cap(f.content), need), frameSize)), f.content...)
	}
	f.content = append(f.content, b...)
}

// next has the full frame compressed and begins another: one that is to spare, or the first
// that has been compressed.
func (c *compression) next() error {
	c.start()
	select {
	case c.spare <- struct{}{}:
		c.spares++
		c.filling = c.newFrame()
		return nil
	default:
	}
	f := c.take()
	f.content, f.done = f.content[:0], make(chan struct{})
	c.filling = f
	return c.failed
}

// start has the frame that was filled compressed.
func (c *compression) start() {
	f := c.filling
	c.pending = append(c.pending, f)
	go func() {
		c.turns <- struct{}{}
		if most := c.encoder.MaxEncodedSize(len(f.content)); cap(f.compressed) < most {
			f.compressed = make([]byte, 0, most)
		}
		f.compressed = c.encoder.EncodeAll(f.content, f.compressed[:0])
		<-c.turns
		close(f.done)
	}()
}

// take waits for the first frame that is under way and passes it on.
func (c *compression) take() *frame {
	f := c.pending[0]
	c.pending = c.pending[1:]
	<-f.done
	if c.failed == nil {
		_, c.failed = c.to.Write(f.compressed)
	}
	return f
}

// finish ends the archive, or with an error what is under way of it, and returns the first
// error.
func (c *compression) finish(err error) error {
	if c.failed == nil {
		c.failed = err
	}
	c.start()
	for len(c.pending) > 0 {
		c.recycle(c.take())
	}
	for ; c.spares > 0; c.spares-- {
		<-c.spare
	}
	return c.failed
}
