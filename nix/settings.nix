# The settings of the builder as options of NixOS, made from the table of settings in internal/server:
#
#   go test ./nix -update
{ lib }:

let
  inherit (lib) mkOption types;
in
{
  # The settings that name a file.
  files = [
    "token-file"
    "tls-cert"
    "tls-key"
    "nix-conf-file"
  ];

  options = {
    listen = mkOption {
      type = types.strMatching ".*:[0-9a-z-]+";
      default = "127.0.0.1:3000";
      description = "Address to listen on; with port 0, any free port (`IGLU_LISTEN`).";
    };

    token-file = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "File with the token that clients must send; by default no token is needed (`IGLU_TOKEN_FILE`).";
    };

    allowed-origins = mkOption {
      type = types.listOf (types.strMatching "[^,]+");
      default = [ ];
      description = "Origins of pages that may connect besides the builder's own; without a token, also the host names that clients may use for the builder (`IGLU_ALLOWED_ORIGINS`).";
    };

    tls-cert = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "File with the certificate for TLS and its chain; by default plain HTTP (`IGLU_TLS_CERT`).";
    };

    tls-key = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "File with the certificate's private key (`IGLU_TLS_KEY`).";
    };

    job-image = mkOption {
      type = types.strMatching ".+";
      default = "nixos/nix:2.34.8";
      description = "Image that jobs run in (`IGLU_JOB_IMAGE`).";
    };

    pull = mkOption {
      type = types.enum [ "missing" "always" "never" ];
      default = "missing";
      description = "When to pull the job image: missing (if the engine does not have it), always (before each job) or never (`IGLU_PULL`).";
    };

    store = mkOption {
      type = types.enum [ "repository" "shared" "ephemeral" ];
      default = "repository";
      description = "Which jobs share a Nix store, one at a time: repository (those of one repository), shared (all) or ephemeral (none) (`IGLU_STORE`).";
    };

    store-max-bytes = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?";
      default = "50GB";
      description = "Largest size of all stores together; the least recently used ones are removed first (`IGLU_STORE_MAX_BYTES`).";
    };

    store-wait = mkOption {
      type = types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+";
      default = "5m";
      description = "Time that a job waits for a Nix store that another job is using; then it starts with the image's own store (`IGLU_STORE_WAIT`).";
    };

    max-jobs = mkOption {
      type = types.ints.between 1 256;
      default = 1;
      description = "Number of jobs that run at once; limits of a job in percent are divided by it (`IGLU_MAX_JOBS`).";
    };

    max-queued = mkOption {
      type = types.ints.between 0 1000;
      default = 0;
      description = "Number of jobs that can wait while all slots are taken; further clients get the answer that the builder is busy (`IGLU_MAX_QUEUED`).";
    };

    job-network = mkOption {
      type = types.nullOr (types.strMatching ".+");
      default = null;
      description = "The engine's network for jobs; by default a bridge that the builder creates (`IGLU_JOB_NETWORK`).";
    };

    job-memory = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?|[0-9]+%";
      default = "75%";
      description = "Memory limit of a job: a size, or a percentage of the machine's memory, which is divided by `max-jobs` (`IGLU_JOB_MEMORY`).";
    };

    job-cpus = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)?|[0-9]+%";
      default = "100%";
      description = "CPU limit of a job: a number of CPUs, or a percentage of the machine's CPUs, which is divided by `max-jobs` (`IGLU_JOB_CPUS`).";
    };

    job-pids = mkOption {
      type = types.ints.between 64 2147483647;
      default = 4096;
      description = "Limit of a job's processes and threads (`IGLU_JOB_PIDS`).";
    };

    job-user = mkOption {
      type = types.enum [ "nix" "root" ];
      default = "nix";
      description = "User that a job's command runs as: nix (unprivileged, with a nix-daemon that builds) or root (can change the job's Nix store at will) (`IGLU_JOB_USER`).";
    };

    nix-sandbox = mkOption {
      type = types.enum [ "auto" "on" "off" ];
      default = "auto";
      description = "When Nix uses its own sandbox: auto (if the engine supports it and it opens no way out of the container), on or off (`IGLU_NIX_SANDBOX`).";
    };

    nix-sandbox-unsafe = mkOption {
      type = types.bool;
      default = false;
      description = "Allow `nix-sandbox=on` even if the sandbox opens a way out of the container (`IGLU_NIX_SANDBOX_UNSAFE`).";
    };

    nix-conf-file = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "File with lines of nix.conf for all jobs, including access-tokens; by default none (`IGLU_NIX_CONF_FILE`).";
    };

    accept-flake-config = mkOption {
      type = types.bool;
      default = false;
      description = "Accept the substituters and keys that a flake sets in its nixConfig (`IGLU_ACCEPT_FLAKE_CONFIG`).";
    };

    build-timeout = mkOption {
      type = types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+";
      default = "6h";
      description = "Time after which a job is cancelled (`IGLU_BUILD_TIMEOUT`).";
    };

    silence-timeout = mkOption {
      type = types.either (types.enum [ "off" ]) (types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+");
      default = "off";
      description = "Time without output after which a job is cancelled, or off (`IGLU_SILENCE_TIMEOUT`).";
    };

    instance = mkOption {
      type = types.strMatching "[a-zA-Z0-9][a-zA-Z0-9_.-]*";
      default = "default";
      description = "Name that labels everything made on the engine; builders with the same name share their Nix stores (`IGLU_INSTANCE`).";
    };

    allowed-commands = mkOption {
      type = types.nonEmptyListOf (types.strMatching "[^,]+");
      default = [ "nix" "nix-build" ];
      description = "Programs that a job may run (`IGLU_ALLOWED_COMMANDS`).";
    };

    request-timeout = mkOption {
      type = types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+";
      default = "30s";
      description = "Time that a client has to send its job (`IGLU_REQUEST_TIMEOUT`).";
    };

    max-request-bytes = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?";
      default = "1MiB";
      description = "Largest size of a job's message (`IGLU_MAX_REQUEST_BYTES`).";
    };

    client-timeout = mkOption {
      type = types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+";
      default = "5m";
      description = "Time after which a client that reads nothing of its log counts as disconnected (`IGLU_CLIENT_TIMEOUT`).";
    };

    shutdown-grace = mkOption {
      type = types.either (types.enum [ "0" ]) (types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+");
      default = "30s";
      description = "Time that running jobs may continue after the server is asked to stop; shorter if the server would be killed earlier (`IGLU_SHUTDOWN_GRACE`).";
    };

    stop-timeout = mkOption {
      type = types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+";
      default = "90s";
      description = "Time between the request to stop and the kill by systemd (`IGLU_STOP_TIMEOUT`).";
    };

    drain = mkOption {
      type = types.bool;
      default = false;
      description = "When the server is asked to stop, also run the jobs that wait for a slot, within the time of `shutdown-grace` (`IGLU_DRAIN`).";
    };

    public-url = mkOption {
      type = types.nullOr (types.strMatching "https?://.+");
      default = null;
      description = "URL of the server's page as people reach it; each job's log shows the page's address; by default none (`IGLU_PUBLIC_URL`).";
    };

    nodes = mkOption {
      type = types.listOf (types.strMatching "[^,]+");
      default = [ ];
      description = "Addresses of the agents on several machines, or names that resolve to several; `max-jobs` then applies to each node; by default one engine (`IGLU_NODES`).";
    };

    retry-lost = mkOption {
      type = types.bool;
      default = false;
      description = "If the node of a job is lost, run the job once more on another node (`IGLU_RETRY_LOST`).";
    };

    agent-keys = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "Folder with this side's keys, if the engine is reached through an agent; by default none (`IGLU_AGENT_KEYS`).";
    };

    state-dir = mkOption {
      type = types.strMatching "/.+";
      default = "/var/lib/iglu-builder";
      description = "Folder for what is kept after a job: logs and records, in a folder for each instance (`IGLU_STATE_DIR`).";
    };

    keep-logs = mkOption {
      type = types.strMatching "[0-9]+d?|[0-9]+,[0-9]+d";
      default = "1000,30d";
      description = "Number of logs that are kept, such as 20, or days that they are kept, such as 7d, or both: 20,7d (`IGLU_KEEP_LOGS`).";
    };

    logs-max-bytes = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?";
      default = "10GB";
      description = "Largest size of all logs together; when a job has ended, the oldest are removed, but never the latest (`IGLU_LOGS_MAX_BYTES`).";
    };

    max-log-bytes = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?";
      default = "1GiB";
      description = "Largest size of a job's log; a larger log is cut, its end is kept, and the job continues (`IGLU_MAX_LOG_BYTES`).";
    };

    fetch-timeout = mkOption {
      type = types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+";
      default = "30m";
      description = "Time limit for fetching the whole source (`IGLU_FETCH_TIMEOUT`).";
    };

    git-depth = mkOption {
      type = types.either (types.enum [ "all" ]) (types.ints.between 1 2147483647);
      default = "all";
      description = "Number of commits of a repository's history that a job fetches, or all; with fewer, results can differ (self.revCount) (`IGLU_GIT_DEPTH`).";
    };

    push-uploads = mkOption {
      type = types.ints.between 1 64;
      default = 8;
      description = "Number of paths that a job pushes to its cache at once (`IGLU_PUSH_UPLOADS`).";
    };

    push-part-bytes = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?";
      default = "8MiB";
      description = "Size of the parts that paths are uploaded in; a job needs (uploads + 4) × size of memory for them (`IGLU_PUSH_PART_BYTES`).";
    };

    push-upstream = mkOption {
      type = types.bool;
      default = false;
      description = "Also push what cache.nixos.org, or a key that the job trusts, has signed (`IGLU_PUSH_UPSTREAM`).";
    };

    log-format = mkOption {
      type = types.enum [ "text" "json" ];
      default = "text";
      description = "Format of the log (`IGLU_LOG_FORMAT`).";
    };

    log-level = mkOption {
      type = types.enum [ "debug" "info" "warn" "error" ];
      default = "info";
      description = "Lowest level that is logged (`IGLU_LOG_LEVEL`).";
    };
  };
}
