package cachix

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"time"
)

// Pushed is the result of the push of a path.
type Pushed struct {
	FileHash Hash          // of the compressed archive
	FileSize int64         // size of the compressed archive, in bytes
	Parts    int           // how many parts were uploaded
	Took     time.Duration // without the wait for other uploads

	signature string // with which it was announced, or ""
}

// Memory returns the most memory that a client with these options uses for uploads, in bytes. It does not
// depend on the number and size of the paths. With the defaults, it is 137 MiB on a machine with four CPUs or
// more; small paths use only a little of it.
func (o Options) Memory() int64 {
	o = o.withDefaults()
	n := compressors()
	return int64(o.Parts)*int64(o.PartSize) + int64(o.Uploads+n)*frameMemory + int64(n)*encoderMemory
}

// Push uploads a path, and makes the cache announce it with a signature by key. If key is nil, the cache must
// sign the path. nar writes the path's archive to w (as nar.Dump does), and must return when w fails. If the
// archive is not that of p, the path is not announced.
//
// If the cache has lost an upload, for example by a restart, Push starts it again once, and calls nar again. It
// aborts an upload that fails, without waiting for the answer. It returns as soon as ctx ends and nar has
// returned. Its errors are of all kinds, or the error of nar or of ctx.
func (c *Client) Push(ctx context.Context, p Path, nar func(w io.Writer) error, key *SigningKey) (Pushed, error) {
	return c.uploader.push(ctx, p, nar, key)
}

// An uploader pushes paths. It limits the number of uploads at the same time, and their memory.
type uploader struct {
	transport  *transport
	retrier    *retrier
	reader     *reader       // for reading back
	turns      chan struct{} // has a value for each running upload
	parts      *partPool
	compressor *compressor
	aborter    *aborter
	joinRate   int64 // see the constant
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
		joinRate:   joinRate,
	}
}

// push implements Client.Push.
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
		up.transport.hosts.say("the cache has lost a part of %s: the upload begins again", p.Name())
		u, err = up.upload(ctx, p, nar, key)
	}
	if err != nil {
		return Pushed{}, err
	}
	pushed := u.pushed()
	pushed.Took = time.Since(start)
	return pushed, nil
}

// upload uploads a path, and aborts the upload if it fails.
func (up *uploader) upload(ctx context.Context, p Path, nar func(w io.Writer) error, key *SigningKey) (*upload, error) {
	u := up.newUpload(ctx, p)
	err := u.push(nar, key)
	u.close()
	if err != nil {
		up.aborter.takeBack(u)
	}
	return u, err
}

// newUpload returns an upload that has not begun yet.
func (up *uploader) newUpload(ctx context.Context, p Path) *upload {
	u := &upload{by: up, path: p, file: sha256.New()}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	return u
}
