package images

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/docker/docker/api/types/registry"
)

// dockerHub is the name of the registry docker.io in Docker's configuration.
const dockerHub = "https://index.docker.io/v1/"

// helperTimeout is how long a credential helper may take. It may ask another machine.
const helperTimeout = time.Minute

var errHelperSilent = errors.New("the credential helper of Docker's configuration does not answer (it is not started again until it has ended)")

// registryAuth returns the credentials for an image's registry, in the format of the engine's API. They are
// from Docker's configuration (DOCKER_CONFIG, or .docker in the home folder) and its credential helpers.
func (s *Source) registryAuth(ctx context.Context) (string, error) {
	name, err := reference.ParseNormalizedNamed(s.ref)
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
	helper, ok := file.CredentialHelpers[host]
	if !ok {
		helper = file.CredentialsStore
	}
	return s.helpers.ask(ctx, helper+" "+host, func() (string, error) {
		found, err := file.GetAuthConfig(host)
		if err != nil {
			return "", fmt.Errorf("get the credentials for %s: %w", host, err)
		}
		return registry.EncodeAuthConfig(registry.AuthConfig(found))
	})
}

// helperCalls are the calls of credential helpers in progress. Docker's library cannot interrupt a helper. So a helper is not
// called again before it has ended: all that need the same credentials share one call.
type helperCalls struct {
	mu      sync.Mutex
	running map[string]*helperCall // by the helper and the registry
}

type helperCall struct {
	begun time.Time
	done  chan struct{} // closed when it has ended
	auth  string        // its result, once it has ended
	err   error
}

// ask returns the result of a call. It returns when ctx ends, and errHelperSilent when the call has taken helperTimeout.
func (h *helperCalls) ask(ctx context.Context, key string, call func() (string, error)) (string, error) {
	c := h.join(key, call)
	ctx, cancel := context.WithDeadlineCause(ctx, c.begun.Add(helperTimeout), errHelperSilent)
	defer cancel()
	select {
	case <-c.done:
		return c.auth, c.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// join returns the call in progress, or begins one.
func (h *helperCalls) join(key string, call func() (string, error)) *helperCall {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.running[key]; c != nil {
		return c
	}
	if h.running == nil {
		h.running = make(map[string]*helperCall)
	}
	c := &helperCall{begun: time.Now(), done: make(chan struct{})}
	h.running[key] = c
	go func() {
		defer close(c.done)
		c.auth, c.err = call()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.running, key)
	}()
	return c
}
