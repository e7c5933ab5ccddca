# A stand-in for what the builder's flake uses of nixpkgs, which cannot be had where the tests run. It
# is written from nixpkgs' manual and stricter: what it does not know, it refuses, such as an option
# without a description, an argument or an attribute of another name, a definition of the wrong type.
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
