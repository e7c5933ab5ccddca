package images

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/docker/docker/api/types/registry"
)

// dockerHub is the name that Docker's configuration has for the registry docker.io.
const dockerHub = "https://index.docker.io/v1/"

// registryAuth returns what Docker's own configuration (DOCKER_CONFIG, or .docker in the home
// folder) and its credential helpers have for an image's registry, as the engine takes it.
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
		return "", fmt.Errorf("ask for the credentials for %s: %w", host, err)
	}
	return registry.EncodeAuthConfig(registry.AuthConfig(found))
}
