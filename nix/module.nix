# services.iglu-builder: the builder as a service, with the same restrictions as in examples/iglu-builder.service.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption types;
  cfg = config.services.iglu-builder;
  table = import ./settings.nix { inherit lib; };

  # The service's dependencies on an engine of this machine.
  engines = {
    docker = {
      group = "docker";
      units = [ "docker.service" ];
      environment = { };
    };
    podman = {
      group = "podman";
      units = [ "podman.socket" ];
      environment.DOCKER_HOST = "unix:///run/podman/podman.sock";
    };
  };
  engine = lib.optionalAttrs (cfg.engine != null) engines.${cfg.engine};

  # The files of a server's keys for agents: 'iglu-builder agent keys'.
  agentKeys = [
    "key.pem"
    "cert.pem"
    "ca.pem"
  ];

  # Files that systemd copies for the service, so that its user can read them.
  files = lib.filter (name: cfg.settings.${name} != null) table.files;
  secrets = [
    "token-file"
    "tls-key"
    "agent-keys"
  ];
  credentials =
    map (name: "${name}:${cfg.settings.${name}}") files
    ++ lib.optionals (cfg.settings.agent-keys != null) (
      map (name: "${name}:${cfg.settings.agent-keys}/${name}") agentKeys
    )
    ++ lib.optional (cfg.registryAuthFile != null) "config.json:${cfg.registryAuthFile}";

  # The text of a setting in its variable. In a unit, %d is the folder of the credentials.
  textOf =
    name: value:
    if lib.elem name files then
      "%d/${name}"
    else if name == "agent-keys" then
      "%d"
    else if lib.isBool value then
      (if value then "yes" else "no")
    else
      lib.replaceStrings [ "%" ] [ "%%" ] (
        if lib.isList value then lib.concatStringsSep "," value else toString value
      );
  variableOf = name: "IGLU_" + lib.toUpper (lib.replaceStrings [ "-" ] [ "_" ] name);
  settings = lib.filterAttrs (_: value: value != null && value != [ ]) cfg.settings;
in
{
  options.services.iglu-builder = {
    enable = lib.mkEnableOption "Iglu Builder, which builds Nix derivations in containers for its clients";

    package = mkOption {
      type = types.package;
      default = pkgs.iglu-builder;
      defaultText = lib.literalExpression "pkgs.iglu-builder";
      description = "The package with the program.";
    };

    engine = mkOption {
      type = types.nullOr (
        types.enum [
          "docker"
          "podman"
        ]
      );
      default = "docker";
      description = ''
        The container engine of this machine that jobs run on, which is enabled. With `null` it is
        another one: set `systemd.services.iglu-builder.environment.DOCKER_HOST`.
      '';
    };

    registryAuthFile = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      example = "/run/secrets/docker-config.json";
      description = ''
        A configuration of Docker's client (`config.json`) with the credentials for the registry of
        the job image.
      '';
    };

    settings = table.options;
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.hasPrefix "/var/lib/" cfg.settings.state-dir;
        message = "services.iglu-builder.settings.state-dir has to be below /var/lib, where systemd makes it for the service";
      }
      {
        assertion = cfg.registryAuthFile == null || !lib.hasPrefix builtins.storeDir cfg.registryAuthFile;
        message = "services.iglu-builder.registryAuthFile is in the Nix store, where everyone can read it";
      }
    ]
    ++ map (name: {
      assertion = !lib.hasPrefix builtins.storeDir cfg.settings.${name};
      message = "services.iglu-builder.settings.${name} is in the Nix store, where everyone can read it";
    }) (lib.filter (name: cfg.settings.${name} != null) secrets);

    virtualisation.docker.enable = lib.mkIf (cfg.engine == "docker") true;
    virtualisation.podman.enable = lib.mkIf (cfg.engine == "podman") true;

    # The client, and the commands stores and cleanup for the administrator.
    environment.systemPackages = [ cfg.package ];

    systemd.services.iglu-builder = {
      description = "Iglu Builder";
      documentation = [ "https://github.com/iglu-sh/builder" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ] ++ engine.units or [ ];

      environment =
        lib.mapAttrs' (name: value: lib.nameValuePair (variableOf name) (textOf name value)) settings
        // lib.optionalAttrs (cfg.registryAuthFile != null) { DOCKER_CONFIG = "%d"; }
        // engine.environment or { };

      serviceConfig = {
        Type = "notify";
        ExecStart = "${lib.getExe cfg.package} serve";
        Restart = "on-failure";
        # Without it systemd gives up after five attempts within a second, for example while a disk is full.
        RestartSec = "5";
        # Only the builder gets the signal to stop. It knows the time-out, and ends its jobs in time.
        KillMode = "mixed";
        TimeoutStopSec = cfg.settings.stop-timeout;
        LoadCredential = credentials;

        DynamicUser = true;
        SupplementaryGroups = lib.optional (cfg.engine != null) engine.group;
        StateDirectory = lib.removePrefix "/var/lib/" cfg.settings.state-dir;
        StateDirectoryMode = "0700";
        CapabilityBoundingSet = "";
        LockPersonality = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectSystem = "strict";
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
        ];
        RestrictNamespaces = true;
        RemoveIPC = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
      };
    };
  };
}
