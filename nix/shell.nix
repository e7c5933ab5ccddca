# What it takes to work on the builder: make build, go test ./... What make test wants beside that, it
# says itself; see docs/development.md.
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
