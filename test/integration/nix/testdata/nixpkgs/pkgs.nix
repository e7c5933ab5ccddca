# The replacement for the packages of nixpkgs. Its derivations cannot be built.
{ lib, nixos, system }:

let
  inherit (builtins) elem isAttrs isBool isInt isList isPath isString match;

  make =
    attributes:
    derivation (
      {
        inherit system;
        builder = "/bin/sh";
      }
      // attributes
    );

  plain = name: make { inherit name; };

  callPackage =
    file: arguments:
    let
      f = import file;
      wanted = builtins.functionArgs f;
      given = builtins.intersectAttrs wanted pkgs;
      unknown = builtins.filter (name: !wanted ? ${name}) (builtins.attrNames arguments);
    in
    if unknown != [ ] then throw "${toString file} takes no ${builtins.head unknown}" else f (given // arguments);

  checkMeta =
    {
      description,
      homepage,
      mainProgram,
      platforms,
    }@meta:
    assert isString description && match ".*\\.|(A|An|The) .*" description == null;
    assert lib.hasPrefix "https://" homepage;
    assert isList platforms;
    meta;

  buildGoModule =
    {
      pname,
      version,
      src,
      vendorHash,
      subPackages,
      ldflags,
      env,
      nativeBuildInputs,
      postInstall,
      meta,
    }:
    assert isString pname && isString version;
    assert builtins.pathExists (src + "/go.mod") && builtins.pathExists (src + "/go.sum");
    assert lib.filter (folder: !builtins.pathExists (src + "/${folder}")) subPackages == [ ];
    assert match "sha256-[A-Za-z0-9+/]{43}=" vendorHash != null;
    assert lib.filter (flag: !isString flag) ldflags == [ ];
    assert lib.filter (value: !(isString value || isBool value || isInt value)) (builtins.attrValues env) == [ ];
    assert lib.filter (input: !lib.isDerivation input) nativeBuildInputs == [ ];
    make (
      {
        name = "${pname}-${version}";
        inherit src subPackages ldflags nativeBuildInputs postInstall;
        # Like the real one: a derivation whose output has this hash.
        goModules = derivation {
          inherit system src;
          name = "${pname}-${version}-go-modules";
          builder = "/bin/sh";
          outputHashMode = "recursive";
          outputHash = vendorHash;
          outputHashAlgo = null;
        };
      }
      // builtins.mapAttrs (_: toString) env
    )
    // {
      inherit pname version vendorHash;
      meta = checkMeta meta;
    };

  mkShell =
    { packages }:
    assert lib.filter (p: !lib.isDerivation p) packages == [ ];
    make {
      name = "nix-shell";
      inherit packages;
    };

  writeTextDir =
    path: text:
    assert match "/.*" path == null;
    make {
      name = baseNameOf path;
      inherit text;
    };

  # The arguments of fakeNss, which override changes.
  fakeNss =
    { extraPasswdLines ? [ ], extraGroupLines ? [ ] }:
    make {
      name = "fake-nss";
      inherit extraPasswdLines extraGroupLines;
    }
    // {
      override = fakeNss;
    };

  dockerTools = {
    fakeNss = fakeNss { };
    binSh = plain "bin-sh";
    usrBinEnv = plain "usr-bin-env";
    buildImageWithNixDb =
      { name, tag, copyToRoot, extraCommands ? "", config ? { } }:
      assert lib.filter (p: !lib.isDerivation p) copyToRoot == [ ];
      make {
        name = "docker-image-${baseNameOf name}.tar.gz";
        inherit tag copyToRoot extraCommands;
        config = builtins.toJSON config;
      };
  };

  pkgs = {
    inherit lib system callPackage buildGoModule mkShell writeTextDir dockerTools;
    stdenv = rec {
      hostPlatform = { inherit system; };
      buildPlatform = hostPlatform // {
        canExecute = platform: platform.system == system;
      };
    };
    testers.runNixOSTest = nixos.runTest pkgs;
  }
  // lib.genAttrs [
    "bashInteractive"
    "cacert"
    "chromium"
    "coreutils"
    "docker-client"
    "docker-compose"
    "git"
    "gitMinimal"
    "gnumake"
    "go"
    "installShellFiles"
    "nix"
    "openssh"
  ] plain;
in
pkgs
