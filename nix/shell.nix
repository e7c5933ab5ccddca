# The tools for work on the builder: make build, go test ./... 'make test' needs more and prints what is missing: see
# docs/development.md.
{
  mkShell,
  chromium,
  docker-client,
  docker-compose,
  git,
  gnumake,
  go,
  openssh,
}:

mkShell {
  packages = [
    chromium
    docker-client
    docker-compose
    git
    gnumake
    go
    openssh
  ];
}
