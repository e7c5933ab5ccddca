# A replacement for the parts of nixpkgs that the builder's flake uses, because nixpkgs is not available where the
# tests run. It is written from nixpkgs' manual, and is stricter: it rejects everything that it does not know, such as
# an option without a description, an unknown argument or attribute, or a definition of the wrong type.
{
  outputs =
    { self }:
    let
      lib = import ./lib.nix;
      nixos = import ./nixos.nix { inherit lib; };
      pkgsFor = system: import ./pkgs.nix { inherit lib nixos system; };
    in
    {
      lib = lib // {
        nixosSystem =
          { system, modules }:
          nixos.system {
            inherit modules;
            pkgs = pkgsFor system;
          };
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] pkgsFor;
    };
}
