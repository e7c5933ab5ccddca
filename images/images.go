// Package images brings the image that jobs run in onto the engine.
//
// Beside it lie the Dockerfile of the builder's own image and, in debian, the
// recipe of a job image for machines that reach no registry.
package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// Default is the image that jobs run in unless another is configured: the official
// one of the Nix project, at a fixed version.
const Default = "nixos/nix:2.32.6"

// Engine is what this package needs of a container engine. *client.Client of
// github.com/docker/docker is one.
type Engine interface {
	ImageInspect(ctx context.Context, image string, opts ...client.ImageInspectOption) (image.InspectResponse, error)
	ImagePull(ctx context.Context, ref string, options image.PullOptions) (io.ReadCloser, error)
}

// Ensure returns the ID of the image that ref names on the engine, and pulls it
// first if it is missing. say gets a line for each step of a pull.
func Ensure(ctx context.Context, engine Engine, ref string, say func(line string)) (id string, err error) {
	found, err := engine.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		if err := pull(ctx, engine, ref, say); err != nil {
			return "", &PullError{Ref: ref, Err: err}
		}
		found, err = engine.ImageInspect(ctx, ref)
	}
	if err != nil {
		return "", fmt.Errorf("inspect image %s: %w", ref, err)
	}
	return found.ID, nil
}

// A PullError says that an image is not on the engine and cannot be pulled.
type PullError struct {
	Ref string
	Err error // the registry's or the engine's word
}

func (e *PullError) Error() string { return fmt.Sprintf("pull image %s: %v", e.Ref, e.Err) }
func (e *PullError) Unwrap() error { return e.Err }

func pull(ctx context.Context, engine Engine, ref string, say func(line string)) error {
	say("pulling " + ref)
	body, err := engine.ImagePull(ctx, ref, image.PullOptions{})
	if err != nil {
		return err
	}
	defer body.Close()
	return readPull(body, say)
}

// readPull reads the progress of a pull, a sequence of JSON objects, to its end. An
// error of the pull comes as one of them, after the call itself has succeeded.
func readPull(body io.Reader, say func(line string)) error {
	dec := json.NewDecoder(body)
	for {
		var step struct {
			ID       string `json:"id"`
			Status   string `json:"status"`
			Error    string `json:"error"`
			Progress struct {
				Total int64 `json:"total"`
			} `json:"progressDetail"`
		}
		err := dec.Decode(&step)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the pull's progress: %w", err)
		case step.Error != "":
			return errors.New(step.Error)
		case step.Progress.Total != 0: // a step on the way, many a second
		case step.ID != "":
			say(step.ID + ": " + step.Status)
		default:
			say(step.Status)
		}
	}
}
