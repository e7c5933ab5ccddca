package cachix

import "context"

// A partPool holds the parts of paths that are in memory, of which there are never more than it has
// room for. Its methods are safe for concurrent use.
type partPool struct {
	size  int           // of a part, in bytes
	taken chan struct{} // holds a value for each part in memory
	free  chan []byte   // parts to fill again
}

func newPartPool(parts, size int) *partPool {
	return &partPool{size: size, taken: make(chan struct{}, parts), free: make(chan []byte, parts)}
}

// acquire returns an empty part, as soon as there is room for one in memory.
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

// release gives a part's memory to the next.
func (p *partPool) release(buffer []byte) {
	p.free <- buffer // there is room for as many as there are parts
	<-p.taken
}
