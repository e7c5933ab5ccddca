package images

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/docker/docker/api/types/registry"
)

// dockerHub is the name of the registry docker.io in Docker's configuration.
const dockerHub = "https://index.docker.io/v1/"

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
