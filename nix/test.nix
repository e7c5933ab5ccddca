# A NixOS machine with the module. Its builder runs a job. It needs KVM:
#
#   nix build .#checks.x86_64-linux.nixos
#
# The machine cannot reach a registry, so the job image is made from nixpkgs. docs/job-image.md has the requirements.
module:

{ lib, pkgs, ... }:

let
  jobImage = pkgs.dockerTools.buildImageWithNixDb {
    name = "iglu-builder-test/job";
    tag = "latest";
    copyToRoot = [
      pkgs.bashInteractive
      pkgs.cacert
      pkgs.coreutils
      pkgs.gitMinimal
      pkgs.nix
      pkgs.dockerTools.binSh
      pkgs.dockerTools.usrBinEnv
      (pkgs.dockerTools.fakeNss.override {
        extraPasswdLines = map (
          n: "nixbld${toString n}:x:${toString (30000 + n)}:30000:Nix build user ${toString n}:/var/empty:/bin/false"
        ) (lib.range 1 8);
        extraGroupLines = [
          "nixbld:x:30000:${lib.concatMapStringsSep "," (n: "nixbld${toString n}") (lib.range 1 8)}"
        ];
      })
      (pkgs.writeTextDir "etc/nix/nix.conf" ''
        build-users-group = nixbld
        sandbox = false
        substituters =
      '')
    ];
    extraCommands = "mkdir -m 1777 -p tmp";
    config.Env = [
      "PATH=/bin"
      "USER=root"
    ];
  };
in
{
  name = "iglu-builder";

  nodes.machine = {
    imports = [ module ];
    virtualisation.diskSize = 8192;
    virtualisation.memorySize = 2048;

    environment.etc."iglu-builder/token".text = "only-of-this-test-0123456789";
    services.iglu-builder = {
      enable = true;
      settings = {
        job-image = "iglu-builder-test/job:latest";
        pull = "never";
        token-file = "/etc/iglu-builder/token";
      };
    };
  };

  testScript = ''
    build = "iglu-builder build --token-file /etc/iglu-builder/token"

    machine.wait_for_unit("docker.service")
    machine.succeed("docker load < ${jobImage}")
    machine.wait_for_unit("iglu-builder.service")
    machine.wait_until_succeeds("iglu-builder healthcheck")

    with subtest("a job runs, and says how it ended"):
        assert "nix (Nix)" in machine.succeed(f"{build} --command 'nix --version' 2>&1")
        machine.fail(f"{build} --command 'nix no-such-command'")

    with subtest("clients show the token"):
        machine.fail("iglu-builder build --command 'nix --version'")

    with subtest("the service is confined"):
        assert machine.succeed("systemctl show -P DynamicUser iglu-builder").strip() == "yes"
        machine.fail("pgrep -u root -f 'iglu-builder serve'")

    with subtest("it stops, and leaves no container"):
        machine.systemctl("stop iglu-builder")
        assert machine.succeed("docker ps --all --quiet").strip() == ""
  '';
}
