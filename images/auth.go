package images

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/docker/docker/api/types/registry"
)

// dockerHub is the name of the registry docker.io in Docker's configuration.
const dockerHub = "https://index.docker.io/v1/"

// helperTimeout is how long a credential helper may take. It may ask another machine.
const helperTimeout = time.Minute

var errHelperSilent = errors.New("the credential helper of Docker's configuration does not answer")

// awaitAuth returns the result of registryAuth. It returns when ctx ends, although a helper cannot be interrupted.
func awaitAuth(ctx context.Context, ref string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helperTimeout, errHelperSilent)
	defer cancel()
	type result struct {
		auth string
		err  error
	}
	found := make(chan result, 1)
	go func() {
		auth, err := registryAuth(ref)
		found <- result{auth, err}
	}()
	select {
	case r := <-found:
		return r.auth, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// registryAuth returns the credentials for an image's registry, in the format of the engine's API. They are
// from Docker's configuration (DOCKER_CONFIG, or .docker in the home folder) and its credential helpers.
func registryAuth(ref string) (string, error) {
	name, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", err
	}
	host := reference.Domain(name)
	if host == "docker.io" {
		host = dockerHub
	}
	file, err := config.Load(config.Dir())
	if err != nil {
		return "", fmt.Errorf("read the credentials for registries: %w", err)
	}
	found, err := file.GetAuthConfig(host)
	if err != nil {
		return "", fmt.Errorf("get the credentials for %s: %w", host, err)
	}
	return registry.EncodeAuthConfig(registry.AuthConfig(found))
}
