# A flake of a user of the builder, with a machine for each file in modules.
{
  inputs.nixpkgs.url = "path:/standin";
  inputs.builder.url = "path:/builder";
  inputs.builder.inputs.nixpkgs.follows = "nixpkgs";

  outputs =
    { nixpkgs, builder, ... }:
    let
      machine =
        file:
        (nixpkgs.lib.nixosSystem {
          system = "x86_64-linux";
          modules = [
            builder.nixosModules.default
            (./modules + "/${file}")
          ];
        }).config;
      pkgs = nixpkgs.legacyPackages.x86_64-linux;
    in
    {
      machines = builtins.mapAttrs (file: _: machine file) (builtins.readDir ./modules);
      overlaid = (builder.overlays.default pkgs pkgs).iglu-builder.name;
    };
}
