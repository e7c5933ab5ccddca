package push

import (
	"context"
	"io"
	"sync"

	"iglu.sh/builder/internal/cachix"
)

// A sender sends paths to the cache that it lacks, and reads each back. Its methods are safe for
// concurrent use.
type sender struct {
	client   *cachix.Client
	key      *cachix.SigningKey // nil: the cache signs
	keys     []string           // public ones, of which one has signed what is in the cache; none: whoever
	readable bool               // what was pushed can be read back
	say      func(format string, args ...any)
	dump     func(w io.Writer, path string) error // writes a path's archive
	tally    *tally

	mu   sync.Mutex
	list list // what the cache's answer to a list of hashes is worth
}

// A list is what a cache's answer to a list of hashes is worth.
type list int

const (
	listUntried list = iota // it lacks all that it was asked for, which may be so
	listWorks
	listUseless // it lacks what it has
)

// largePath is the size in bytes of an archive from which on the log says that a path
// is about to go up, and not only that it has.
const largePath = 64 << 20

// send pushes one path and reads it back, unless the cache has it.
func (s *sender) send(ctx context.Context, path cachix.Path) error {
	if err := s.tally.hasGivenUp(); err != nil {
		return err
	}
	there, err := s.isThere(ctx, path)
	if err == nil && !there {
		err = s.push(ctx, path)
	}
	if err != nil {
		s.tally.failed(ctx, path, err)
	}
	return err
}

// isThere looks for a path, unless the cache's answer to the list of hashes can be trusted.
func (s *sender) isThere(ctx context.Context, path cachix.Path) (bool, error) {
	if !s.readable || s.listIs() == listWorks {
		return false, nil
	}
	there, err := s.client.Has(ctx, path, s.keys...)
	if there {
		s.learn(listUseless)
		s.tally.succeeded(func(c *counts) {
			c.there++
			c.expected--
		})
	}
	return there, err
}

// push pushes one path and reads it back.
func (s *sender) push(ctx context.Context, path cachix.Path) error {
	if path.NarSize >= largePath {
		s.say("pushing %s (%s)", path.Name(), size(path.NarSize))
	}
	pushed, err := s.client.Push(ctx, path, func(w io.Writer) error { return s.dump(w, path.StorePath) }, s.key)
	if err != nil {
		return err
	}
	if s.readable {
		if err := s.client.Verify(ctx, path, pushed, s.key); err != nil {
			return err
		}
		s.tryList(ctx, path)
	}
	s.say("pushed %s (%s, %s compressed, %s)", path.Name(), size(path.NarSize), size(pushed.FileSize), rate(path.NarSize, pushed.Took))
	s.tally.succeeded(func(c *counts) {
		c.pushed++
		c.narBytes += path.NarSize
		c.fileBytes += pushed.FileSize
	})
	return nil
}

// tryList finds out what the cache's answer to the list of hashes is worth: whether it knows
// of a path that it has shown.
func (s *sender) tryList(ctx context.Context, path cachix.Path) {
	if s.listIs() != listUntried {
		return
	}
	switch missing, err := s.client.Missing(ctx, []string{path.Hash()}); {
	case err != nil: // another path tells
	case len(missing) == 0:
		s.learn(listWorks)
	default:
		s.learn(listUseless)
	}
}

// listIs returns what is known of the list.
func (s *sender) listIs() list {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list
}

// learn keeps what is found out first of the list.
func (s *sender) learn(l list) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list == listUntried {
		s.list = l
	}
}
