// Package images brings the image that jobs run in onto the engine.
//
// Beside it lie the Dockerfile of the builder's own image and, in debian, the
// recipe of a job image for machines that reach no registry.
package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// Default is the image that jobs run in unless another is configured: the official
// one of the Nix project, at a fixed version.
const Default = "nixos/nix:2.34.8"

// Engine is what this package needs of a container engine. *client.Client of
// github.com/docker/docker is one.
type Engine interface {
	ImageInspect(ctx context.Context, image string, opts ...client.ImageInspectOption) (image.InspectResponse, error)
	ImagePull(ctx context.Context, ref string, options image.PullOptions) (io.ReadCloser, error)
}

// A Policy says when an image is pulled.
type Policy string

// The policies.
const (
	PullMissing Policy = "missing" // if the engine does not have it
	PullAlways  Policy = "always"  // whenever it is asked for
	PullNever   Policy = "never"
)

// An Image is one that the engine has.
type Image struct {
	ID       string // that the engine knows it by
	Digest   string // of what was pulled; the ID of an image that was not
	Platform string // such as linux/amd64
	Size     int64  // unpacked, in bytes
}

// A Source brings one image onto an engine. Its methods are safe for concurrent use.
type Source struct {
	engine Engine
	ref    string
	policy Policy

	mu      sync.Mutex
	current *pull // the one that is under way, or nil
	failed  error // why the last one failed that came to its end; nil if it did not
}

// NewSource returns the source of the image that ref names.
func NewSource(engine Engine, ref string, policy Policy) *Source {
	return &Source{engine: engine, ref: ref, policy: policy}
}

// Ensure returns the image, and pulls it first if the policy says so. All who wait for it at
// one time wait for one pull. say gets a line for each step of that, at most one a second.
func (s *Source) Ensure(ctx context.Context, say func(line string)) (Image, error) {
	found, err := s.inspect(ctx)
	missing := errdefs.IsNotFound(err)
	switch {
	case err != nil && !missing:
		return Image{}, err
	case missing && s.policy == PullNever:
		return Image{}, &PullError{Ref: s.ref, Err: errNeverPulled}
	case !missing && s.policy != PullAlways:
		return found, nil
	}
	if err := s.pull(ctx, say); err != nil {
		if missing || ctx.Err() != nil {
			return Image{}, &PullError{Ref: s.ref, Err: err}
		}
		say(fmt.Sprintf("cannot pull %s: %v; going on with the copy that is here", s.ref, err))
		return found, nil
	}
	return s.inspect(ctx)
}

var errNeverPulled = errors.New("it is never pulled (IGLU_PULL)")

// Check returns why the image cannot be had, as far as that is known without a pull: it is missing, and is
// never pulled or could not be pulled the last time.
func (s *Source) Check(ctx context.Context) error {
	_, err := s.inspect(ctx)
	if !errdefs.IsNotFound(err) {
		return err
	}
	failed := errNeverPulled
	if s.policy != PullNever {
		s.mu.Lock()
		failed = s.failed
		s.mu.Unlock()
	}
	if failed == nil {
		return nil
	}
	return &PullError{Ref: s.ref, Err: failed}
}

// inspectTimeout bounds the question whether the engine has the image, which it answers at once
// if it answers at all.
const inspectTimeout = 2 * time.Minute

func (s *Source) inspect(ctx context.Context) (Image, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	found, err := s.engine.ImageInspect(ctx, s.ref)
	if err != nil {
		return Image{}, fmt.Errorf("inspect image %s: %w", s.ref, err)
	}
	img := Image{ID: found.ID, Digest: found.ID, Platform: found.Os + "/" + found.Architecture, Size: found.Size}
	if len(found.RepoDigests) > 0 {
		_, img.Digest, _ = strings.Cut(found.RepoDigests[0], "@")
	}
	return img, nil
}

// A PullError says that an image is not on the engine and cannot be pulled.
type PullError struct {
	Ref string
	Err error // the registry's or the engine's word
}

func (e *PullError) Error() string { return fmt.Sprintf("pull image %s: %v", e.Ref, e.Err) }
func (e *PullError) Unwrap() error { return e.Err }
