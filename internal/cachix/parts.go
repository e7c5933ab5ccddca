package cachix

import "context"

// A partPool limits how many parts are in memory, and reuses their memory. Its methods are safe for
// concurrent use.
type partPool struct {
	size  int           // of a part, in bytes
	taken chan struct{} // has a value for each part in use
	free  chan []byte   // the memory of parts that are not in use
}

func newPartPool(parts, size int) *partPool {
	return &partPool{size: size, taken: make(chan struct{}, parts), free: make(chan []byte, parts)}
}

// acquire returns an empty part. It waits if too many are in use.
func (p *partPool) acquire(ctx context.Context) ([]byte, error) {
	select {
	case p.taken <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case buffer := <-p.free:
		return buffer[:0], nil
	default:
		return make([]byte, 0, p.size), nil
	}
}

// release returns a part to the pool.
func (p *partPool) release(buffer []byte) {
	p.free <- buffer // does not block: it has room for all parts
	<-p.taken
}
