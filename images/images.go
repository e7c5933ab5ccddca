// Package images pulls the image that jobs run in.
//
// A Source is one image on one engine. Source.Ensure returns the image, and pulls it first if the Policy says
// so. Jobs that wait for the image at the same time share one pull.
//
// The same folder has the Dockerfiles of the builder's own image. The folder debian has a script that builds a
// job image for machines that cannot reach a registry.
package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// Default is the image that jobs run in if no other is configured: the official image of the Nix project, with
// a fixed version.
const Default = "nixos/nix:2.34.8"

// Engine has the calls of a container engine that this package uses. *client.Client of
// github.com/docker/docker implements it.
type Engine interface {
	ImageInspect(ctx context.Context, image string, opts ...client.ImageInspectOption) (image.InspectResponse, error)
	ImagePull(ctx context.Context, ref string, options image.PullOptions) (io.ReadCloser, error)
}

// A Policy says when an image is pulled.
type Policy string

// The policies.
const (
	PullMissing Policy = "missing" // if the engine does not have it
	PullAlways  Policy = "always"  // before each job
	PullNever   Policy = "never"
)

// An Image is an image that the engine has.
type Image struct {
	ID       string // the engine's ID of the image
	Digest   string // the digest in its registry; the ID if the image was not pulled
	Platform string // such as linux/amd64
	Size     int64  // unpacked, in bytes
}

// A Source provides one image on an engine. Its methods are safe for concurrent use.
type Source struct {
	engine Engine
	ref    string
	policy Policy

	helpers helperCalls
	mu      sync.Mutex
	current *pull // the pull in progress, or nil
	failed  error // the error of the last pull that was not cancelled, or nil
}

// NewSource returns the source of the image with the name ref.
func NewSource(engine Engine, ref string, policy Policy) *Source {
	return &Source{engine: engine, ref: ref, policy: policy}
}

// Ensure returns the image, and pulls it first if the policy says so. Concurrent calls share one pull. say gets
// lines about the progress of the pull, at most one a second. If the pull fails but the engine has the image,
// Ensure returns that. The error is a *PullError if the engine has no image and cannot pull it.
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
		say(fmt.Sprintf("cannot pull %s: %v; using the copy on the engine", s.ref, err))
		return found, nil
	}
	return s.inspect(ctx)
}

var errNeverPulled = errors.New("it is never pulled (IGLU_PULL)")

// Check returns an error if the image is not available, as far as that is known without a pull: it is missing,
// and the policy is PullNever or the last pull failed.
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

// inspectTimeout is how long the engine may take to say whether it has the image. Engines answer that
// immediately if they work.
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
		img.Digest = digestOf(s.ref, found.RepoDigests)
	}
	return img, nil
}

// digestOf returns the digest of the image with the name ref. digests are names with a digest: an image that was pulled
// from several registries has one of each, and they can differ. If ref has a digest, that is returned; if no name is
// that of ref, the first.
func digestOf(ref string, digests []string) string {
	repository := func(text string) string {
		name, err := reference.ParseNormalizedNamed(text)
		if err != nil {
			return ""
		}
		return name.Name()
	}
	i := slices.IndexFunc(digests, func(text string) bool { return repository(text) == repository(ref) })
	_, digest, _ := strings.Cut(digests[max(i, 0)], "@")
	if _, pinned, ok := strings.Cut(ref, "@"); ok {
		digest = pinned
	}
	return digest
}

// A PullError is the error for an image that is not on the engine and cannot be pulled.
type PullError struct {
	Ref string
	Err error // the error of the registry or the engine
}

func (e *PullError) Error() string { return fmt.Sprintf("pull image %s: %v", e.Ref, e.Err) }
func (e *PullError) Unwrap() error { return e.Err }
