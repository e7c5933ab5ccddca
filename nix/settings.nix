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
      description = "Address to listen on; port 0 takes a free one (`IGLU_LISTEN`).";
    };

    token-file = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "File with the token that clients must show; by default none is asked for (`IGLU_TOKEN_FILE`).";
    };

    allowed-origins = mkOption {
      type = types.listOf (types.strMatching "[^,]+");
      default = [ ];
      description = "Origins of pages that may connect beside the builder's own; without a token, also names by which the builder may be called (`IGLU_ALLOWED_ORIGINS`).";
    };

    tls-cert = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "File with the certificate for TLS and its chain; by default plain HTTP (`IGLU_TLS_CERT`).";
    };

    tls-key = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "File with the certificate's key (`IGLU_TLS_KEY`).";
    };

    job-image = mkOption {
      type = types.strMatching ".+";
      default = "nixos/nix:2.34.8";
      description = "Image that jobs run in (`IGLU_JOB_IMAGE`).";
    };

    pull = mkOption {
      type = types.enum [ "missing" "always" "never" ];
      default = "missing";
      description = "When the job image is pulled: missing (if the engine does not have it), always or never (`IGLU_PULL`).";
    };

    store = mkOption {
      type = types.enum [ "repository" "shared" "ephemeral" ];
      default = "repository";
      description = "Who shares a Nix store, one job after the other: repository (the jobs of one), shared (all jobs) or ephemeral (nobody) (`IGLU_STORE`).";
    };

    store-max-bytes = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?";
      default = "50GB";
      description = "Largest size of all stores together; the ones used least recently go first (`IGLU_STORE_MAX_BYTES`).";
    };

    store-wait = mkOption {
      type = types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+";
      default = "5m";
      description = "Time that a job waits for a Nix store that another job has; then it has one of its own (`IGLU_STORE_WAIT`).";
    };

    max-jobs = mkOption {
      type = types.ints.between 1 256;
      default = 1;
      description = "How many jobs run at once; shares of the machine are divided by it (`IGLU_MAX_JOBS`).";
    };

    max-queued = mkOption {
      type = types.ints.between 0 1000;
      default = 0;
      description = "How many jobs wait for their turn while all slots are taken; others are told that the builder is busy (`IGLU_MAX_QUEUED`).";
    };

    job-network = mkOption {
      type = types.nullOr (types.strMatching ".+");
      default = null;
      description = "The engine's network for jobs; by default a bridge of the builder's own (`IGLU_JOB_NETWORK`).";
    };

    job-memory = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?|[0-9]+%";
      default = "75%";
      description = "Most memory of a job, as a size or as a share of the engine's machine, divided by `max-jobs` (`IGLU_JOB_MEMORY`).";
    };

    job-cpus = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)?|[0-9]+%";
      default = "100%";
      description = "Most CPUs of a job, as a number or as a share of the engine's machine, divided by `max-jobs` (`IGLU_JOB_CPUS`).";
    };

    job-pids = mkOption {
      type = types.ints.between 64 2147483647;
      default = 4096;
      description = "Most processes and threads of a job at once (`IGLU_JOB_PIDS`).";
    };

    job-user = mkOption {
      type = types.enum [ "nix" "root" ];
      default = "nix";
      description = "Who a job's command runs as: nix (an unprivileged user, for whom a nix-daemon builds) or root (who can change the job's Nix store at will) (`IGLU_JOB_USER`).";
    };

    nix-sandbox = mkOption {
      type = types.enum [ "auto" "on" "off" ];
      default = "auto";
      description = "When Nix uses its own sandbox: auto (where the engine can and that opens no way out of the container), on or off (`IGLU_NIX_SANDBOX`).";
    };

    nix-sandbox-unsafe = mkOption {
      type = types.bool;
      default = false;
      description = "True lets the sandbox be on even where it opens a way out of the container (`IGLU_NIX_SANDBOX_UNSAFE`).";
    };

    nix-conf-file = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "File with lines of nix.conf for all jobs, access-tokens among them; by default none (`IGLU_NIX_CONF_FILE`).";
    };

    accept-flake-config = mkOption {
      type = types.bool;
      default = false;
      description = "True lets the substituters and keys count that a flake itself names (nixConfig) (`IGLU_ACCEPT_FLAKE_CONFIG`).";
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
      description = "Name that labels everything made on the engine; builders of one name share their Nix stores (`IGLU_INSTANCE`).";
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
      description = "Time after which a client that accepts nothing of its log counts as gone (`IGLU_CLIENT_TIMEOUT`).";
    };

    shutdown-grace = mkOption {
      type = types.either (types.enum [ "0" ]) (types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+");
      default = "30s";
      description = "Time that running jobs may go on for when the server is asked to stop; less where it would be killed before (`IGLU_SHUTDOWN_GRACE`).";
    };

    stop-timeout = mkOption {
      type = types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+";
      default = "90s";
      description = "Time after which systemd kills the server that was asked to stop (`IGLU_STOP_TIMEOUT`).";
    };

    drain = mkOption {
      type = types.bool;
      default = false;
      description = "True lets also the jobs that wait for their turn run, when the server is asked to stop, within the time of `shutdown-grace` (`IGLU_DRAIN`).";
    };

    public-url = mkOption {
      type = types.nullOr (types.strMatching "https?://.+");
      default = null;
      description = "URL of the server's page as people reach it; it stands in the logs of jobs; by default none (`IGLU_PUBLIC_URL`).";
    };

    nodes = mkOption {
      type = types.listOf (types.strMatching "[^,]+");
      default = [ ];
      description = "List of the agents' addresses on several machines, or of names that stand for several, separated by commas; `max-jobs` is then for each; by default one engine (`IGLU_NODES`).";
    };

    retry-lost = mkOption {
      type = types.bool;
      default = false;
      description = "True runs a job once more, on another of the nodes, when the one is lost on which it runs (`IGLU_RETRY_LOST`).";
    };

    agent-keys = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      description = "Folder with this side's keys, where the engine is reached through an agent; by default it is not (`IGLU_AGENT_KEYS`).";
    };

    state-dir = mkOption {
      type = types.strMatching "/.+";
      default = "/var/lib/iglu-builder";
      description = "Folder for what outlives a job: the logs, in a folder for each instance (`IGLU_STATE_DIR`).";
    };

    keep-logs = mkOption {
      type = types.strMatching "[0-9]+d?|[0-9]+,[0-9]+d";
      default = "1000,30d";
      description = "How many logs of jobs are kept, or for how many days, or both, as in 20,7d (`IGLU_KEEP_LOGS`).";
    };

    logs-max-bytes = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?";
      default = "10GB";
      description = "Largest size of all logs together; the oldest go first when a job has ended, the latest stays (`IGLU_LOGS_MAX_BYTES`).";
    };

    max-log-bytes = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?";
      default = "1GiB";
      description = "Largest size of a job's log; beyond it the job goes on, and only the log's end is kept (`IGLU_MAX_LOG_BYTES`).";
    };

    fetch-timeout = mkOption {
      type = types.strMatching "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+";
      default = "30m";
      description = "Time that all of the fetching of a source may take (`IGLU_FETCH_TIMEOUT`).";
    };

    git-depth = mkOption {
      type = types.either (types.enum [ "all" ]) (types.ints.between 1 2147483647);
      default = "all";
      description = "How many commits of a repository's history a job fetches, or all; with fewer, what is built can differ (self.revCount) (`IGLU_GIT_DEPTH`).";
    };

    push-uploads = mkOption {
      type = types.ints.between 1 64;
      default = 8;
      description = "How many paths a job pushes to its cache at once (`IGLU_PUSH_UPLOADS`).";
    };

    push-part-bytes = mkOption {
      type = types.strMatching "[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?";
      default = "8MiB";
      description = "Size of the parts that paths go up in; a job takes (uploads + 4) × size of memory for them (`IGLU_PUSH_PART_BYTES`).";
    };

    push-upstream = mkOption {
      type = types.bool;
      default = false;
      description = "True has jobs push also what cache.nixos.org, or a key that the job trusts, has signed (`IGLU_PUSH_UPSTREAM`).";
    };

    log-format = mkOption {
      type = types.enum [ "text" "json" ];
      default = "text";
      description = "Format of the server's log: text or json (`IGLU_LOG_FORMAT`).";
    };

    log-level = mkOption {
      type = types.enum [ "debug" "info" "warn" "error" ];
      default = "info";
      description = "Least level that is logged: debug, info, warn or error (`IGLU_LOG_LEVEL`).";
    };
  };
}
