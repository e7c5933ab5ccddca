package cachix

import (
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

const (
	// frameSize is how many bytes of an archive are compressed as one frame. Compressing frames
	// independently makes the result less than 1 % larger.
	frameSize = 1 << 20
	// maxCompressors is how many frames are compressed at the same time, for all uploads together. More
	// would be faster than a cache receives, and the build needs the CPUs, too.
	maxCompressors = 4
	// encoderMemory is how much memory the encoder uses at most for each of them, in bytes: its history of
	// two windows, its tables and its blocks. TestEncoderMemory measures it.
	encoderMemory = 4 << 20
	// frameMemory is how much memory a frame uses at most, in bytes: for its content and the result.
	frameMemory = 2*frameSize + 64<<10
)

// compressors returns how many frames are compressed at the same time.
func compressors() int { return min(runtime.GOMAXPROCS(0), maxCompressors) }

// A compressor compresses for all uploads of a client.
type compressor struct {
	encoder *zstd.Encoder
	turns   chan struct{} // has a value for each frame that is being compressed
	spare   chan struct{} // has a value for each frame in memory in addition to one for each upload
	frames  chan *frame   // free frames
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

// A frame is a piece of an archive that is compressed independently: RFC 8878, section 3. Decompressing
// several frames in sequence returns their contents in sequence.
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

// recycle keeps a frame for later use, unless enough are kept.
func (c *compressor) recycle(f *frame) {
	select {
	case c.frames <- f:
	default:
	}
}

// A compression compresses an archive. It is an io.Writer, and not safe for concurrent use.
type compression struct {
	*compressor
	to      io.Writer
	filling *frame
	pending []*frame // frames that are being compressed, in the archive's order
	spares  int      // how many frames it has in addition to the one that each upload has
	failed  error    // the error after which nothing is passed on
}

func (c *compressor) compress(to io.Writer) *compression {
	return &compression{compressor: c, to: to, filling: c.newFrame()}
}

// Write compresses the next bytes of the archive. Its error is that of the writer of the result.
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

// add adds bytes to a frame. The frame's memory grows with them, because most paths are small.
func (f *frame) add(b []byte) {
	if need := len(f.content) + len(b); need > cap(f.content) {
		f.content = append(make([]byte, 0, min(max(2*cap(f.content), need), frameSize)), f.content...)
	}
	f.content = append(f.content, b...)
}

// next starts to compress the full frame, and gets an empty one: a spare one, or else the first one that is
// compressed.
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

// start starts to compress the present frame.
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

// take waits until the first pending frame is compressed, and passes it on.
func (c *compression) take() *frame {
	f := c.pending[0]
	c.pending = c.pending[1:]
	<-f.done
	if c.failed == nil {
		_, c.failed = c.to.Write(f.compressed)
	}
	return f
}

// finish compresses and passes on the rest, or drops it if err is not nil. It returns the first error.
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
