# The replacement for NixOS: the options that the builder's module and test define.
{ lib }:

let
  inherit (lib) mkOption types;
  modules' = import ./modules.nix;

  option =
    type: default: description:
    mkOption { inherit type default description; };
  strings = option (types.listOf types.str) [ ];
  scalar = types.either types.bool (types.either types.str (types.ints.between (-2147483648) 2147483647));

  service = types.submodule {
    options = {
      description = option types.str "" "Description of the unit.";
      documentation = strings "Addresses of documentation.";
      wantedBy = strings "Units that want it.";
      wants = strings "Units that it wants.";
      after = strings "Units that it starts after.";
      environment = option (types.attrsOf (types.nullOr types.str)) { } "Environment.";
      serviceConfig = option (types.attrsOf (types.either scalar (types.listOf scalar))) { } "The section [Service].";
    };
  };

  base.options = {
    assertions = option (types.listOf types.anything) [ ] "What has to be true.";
    environment.systemPackages = option (types.listOf types.package) [ ] "Packages in the system's path.";
    environment.etc = option (types.attrsOf (types.submodule {
      options.text = option types.lines "" "Text of the file.";
    })) { } "Files in /etc.";
    systemd.services = option (types.attrsOf service) { } "Services.";
    virtualisation.docker.enable = option types.bool false "Docker.";
    virtualisation.podman.enable = option types.bool false "Podman.";
  };

  machine.options.virtualisation = {
    diskSize = option types.ints.positive 1024 "Size of the disk in MiB.";
    memorySize = option types.ints.positive 1024 "Memory in MiB.";
  };
in
rec {
  system =
    { modules, pkgs }:
    let
      evaluated = modules'.evalModules {
        modules = [ base ] ++ modules;
        specialArgs = { inherit lib pkgs; };
      };
      failed = lib.filter (a: !a.assertion) evaluated.config.assertions;
    in
    # Everything is evaluated, including values that are not used.
    if failed == [ ] then builtins.deepSeq evaluated.config evaluated else throw "Failed assertions: ${lib.concatMapStringsSep "; " (a: a.message) failed}";

  # A NixOS test: its result is a derivation, with the evaluated machines.
  runTest =
    pkgs: test:
    let
      check =
        {
          name,
          nodes,
          testScript,
        }:
        {
          inherit name;
          testScript = if builtins.isString testScript then testScript else throw "testScript is no string";
          nodes = builtins.mapAttrs (
            _: node:
            (system {
              inherit pkgs;
              modules = [
                machine
                node
              ];
            }).config
          ) nodes;
        };
      result = check (
        test {
          inherit lib pkgs;
          hostPkgs = pkgs;
        }
      );
      toplevel = builtins.mapAttrs (_: config: config.systemd.services) result.nodes;
    in
    derivation {
      inherit (pkgs) system;
      name = "vm-test-run-${result.name}";
      builder = "/bin/sh";
      script = result.testScript;
      machines = builtins.toJSON toplevel;
    }
    // result;
}
