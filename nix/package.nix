{
  lib,
  stdenv,
  buildGoModule,
  installShellFiles,
  version ? "dev", # the output of 'iglu-builder version'
}:

buildGoModule {
  pname = "iglu-builder";
  inherit version;
  src = lib.cleanSource ../.;

  # The hash of the modules in go.sum. 'make test' checks it: go run ./scripts/vendorhash
  vendorHash = "sha256-R3Ie8JeNAaYV7V5E8WiJfI7p9DENZnBUfk1dgGrFmiE=";

  subPackages = [ "cmd/iglu-builder" ];
  # The program is static, because it runs in containers of any image.
  env.CGO_ENABLED = 0;
  ldflags = [
    "-s"
    "-w"
    "-X main.version=${version}"
  ];

  nativeBuildInputs = [ installShellFiles ];
  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd iglu-builder \
      --bash <($out/bin/iglu-builder completion bash) \
      --fish <($out/bin/iglu-builder completion fish) \
      --zsh <($out/bin/iglu-builder completion zsh)
  '';

  meta = {
    description = "Builds Nix derivations in containers and pushes them to a cache";
    homepage = "https://github.com/iglu-sh/builder";
    mainProgram = "iglu-builder";
    platforms = lib.platforms.linux;
  };
}
