package cachix

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
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
	return c.uploader.push(ctx, p, nar, key)
}

// An uploader pushes paths, and bounds how many are under way and how much memory they take.
type uploader struct {
	transport  *transport
	retrier    *retrier
	reader     *reader       // of what the cache says of a path
	turns      chan struct{} // holds a value for each upload under way
	parts      *partPool
	compressor *compressor
	aborter    *aborter
}

func newUploader(transport *transport, retrier *retrier, reader *reader) *uploader {
	options := transport.options
	return &uploader{
		transport:  transport,
		retrier:    retrier,
		reader:     reader,
		turns:      make(chan struct{}, options.Uploads),
		parts:      newPartPool(options.Parts, options.PartSize),
		compressor: newCompressor(options.Uploads),
		aborter:    newAborter(transport),
	}
}

// push is Client.Push.
func (up *uploader) push(ctx context.Context, p Path, nar func(w io.Writer) error, key *SigningKey) (Pushed, error) {
	if err := p.check(); err != nil {
		return Pushed{}, fmt.Errorf("push: %w", err)
	}
	select {
	case up.turns <- struct{}{}:
	case <-ctx.Done():
		return Pushed{}, fmt.Errorf("push %s: %w", p.Name(), context.Cause(ctx))
	}
	defer func() { <-up.turns }()
	start := time.Now()
	u, err := up.upload(ctx, p, nar, key)
	if err != nil && u.isLost(err) {
		up.transport.hosts.say("the cache has lost what it had of %s, which goes up once more", p.Name())
		u, err = up.upload(ctx, p, nar, key)
	}
	if err != nil {
		return Pushed{}, err
	}
	pushed := u.pushed()
	pushed.Took = time.Since(start)
	return pushed, nil
}

// upload sends a path, and takes back what has been sent of one that fails.
func (up *uploader) upload(ctx context.Context, p Path, nar func(w io.Writer) error, key *SigningKey) (*upload, error) {
	u := up.newUpload(ctx, p)
	err := u.push(nar, key)
	u.close()
	if err != nil {
		up.aborter.takeBack(u)
	}
	return u, err
}

// newUpload returns an upload that has not begun.
func (up *uploader) newUpload(ctx context.Context, p Path) *upload {
	u := &upload{by: up, path: p, file: sha256.New()}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	return u
}
