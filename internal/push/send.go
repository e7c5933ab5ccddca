package push

import (
	"context"
	"errors"
	"io"
	"sync"

	"iglu.sh/builder/internal/cachix"
)

// A sender uploads paths that the cache lacks, and reads each back. Its methods are safe for concurrent
// use.
type sender struct {
	client   *cachix.Client
	key      *cachix.SigningKey // nil: the cache signs
	keys     []string           // public keys that may have signed the paths in the cache; none: any key may
	readable bool               // the cache can be read
	say      func(format string, args ...any)
	dump     func(w io.Writer, path string) error // writes a path's archive
	tally    *tally

	mu   sync.Mutex
	list list // whether the cache's answer to a list of hashes is right
}

// A list says whether a cache's answer to a list of hashes is right.
type list int

const (
	listUntried list = iota // so far it has answered that it lacks every path, which may be true
	listWorks
	listUseless // it has answered that it lacks a path that it has
)

// largePath is the size of an archive in bytes. For larger ones, the log says when the upload begins, and
// not only when it has ended.
const largePath = 64 << 20

// send pushes one path and reads it back, unless the cache has it.
func (s *sender) send(ctx context.Context, path cachix.Path) error {
	if err := s.tally.hasGivenUp(); err != nil {
		return err
	}
	there, err := s.isThere(ctx, path)
	if err == nil && !there {
		if err = s.push(ctx, path); err != nil && s.hasOther(ctx, path, err) {
			err = nil
		}
	}
	if err != nil {
		s.tally.failed(ctx, path, err)
	}
	return err
}

// isThere reports whether the cache has a path. If the answers to lists of hashes are right, it does not ask.
func (s *sender) isThere(ctx context.Context, path cachix.Path) (bool, error) {
	if !s.readable || s.listIs() == listWorks {
		return false, nil
	}
	there, err := s.client.Has(ctx, path, s.keys...)
	if there {
		s.learn(listUseless)
		s.countThere()
	}
	return there, err
}

func (s *sender) countThere() {
	s.tally.succeeded(func(c *counts) {
		c.there++
		c.expected--
	})
}

// hasOther reports whether the cache has another build of a path that it has not accepted, and which a key of the cache
// has signed: another job has pushed it meanwhile.
func (s *sender) hasOther(ctx context.Context, path cachix.Path, failure error) bool {
	if !s.readable || !errors.Is(failure, cachix.NotAsPushed) && !errors.Is(failure, cachix.Refused) || !s.client.HasOther(ctx, path, s.keys...) {
		return false
	}
	s.say("the cache has %s of another job, and keeps that", path.Name())
	s.countThere()
	return true
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

// tryList finds out whether the cache's answers to lists of hashes are right, by asking for a path that the
// cache has.
func (s *sender) tryList(ctx context.Context, path cachix.Path) {
	if s.listIs() != listUntried {
		return
	}
	switch missing, err := s.client.Missing(ctx, []string{path.Hash()}); {
	case err != nil: // the next path will show it
	case len(missing) == 0:
		s.learn(listWorks)
	default:
		s.learn(listUseless)
	}
}

// listIs returns what is known about these answers.
func (s *sender) listIs() list {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list
}

// learn sets what is known about these answers, unless that is set already.
func (s *sender) learn(l list) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list == listUntried {
		s.list = l
	}
}
