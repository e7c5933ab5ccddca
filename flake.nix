{
  description = "Iglu Builder builds Nix derivations in containers and pushes them to a cache";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      eachSystem =
        make:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: make nixpkgs.legacyPackages.${system});
      package = pkgs: pkgs.callPackage ./nix/package.nix { version = self.shortRev or self.dirtyShortRev or "dev"; };
    in
    {
      packages = eachSystem (pkgs: rec {
        iglu-builder = package pkgs;
        default = iglu-builder;
      });

      overlays.default = final: prev: { iglu-builder = package final; };

      nixosModules = rec {
        iglu-builder =
          { pkgs, ... }:
          {
            imports = [ ./nix/module.nix ];
            services.iglu-builder.package = lib.mkDefault (package pkgs);
          };
        default = iglu-builder;
      };

      devShells = eachSystem (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { };
      });

      checks = eachSystem (pkgs: {
        package = package pkgs;
        nixos = pkgs.testers.runNixOSTest (import ./nix/test.nix self.nixosModules.default);
      });
    };
}
