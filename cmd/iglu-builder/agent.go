package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/docker/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/agent"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator/docker"
)

const (
	// agentListen is the default address of agents: the port of Docker's API with TLS, on all addresses.
	agentListen = ":2376"
	// agentGrace is how long an agent that is asked to stop waits for running jobs: as long as a job may run.
	agentGrace = "6h"
)

func agentCommand() *cobra.Command {
	var s server.Settings
	flags := settingFlags(&s, "listen", "agent-keys", "shutdown-grace", "log-format", "log-level")
	setDefault(flags.Lookup("listen"), agentListen)
	setDefault(flags.Lookup("shutdown-grace"), agentGrace)
	flags.Lookup("shutdown-grace").Usage = "time that running jobs may continue after the agent is asked to stop"

	command := &cobra.Command{
		Use:   "agent",
		Short: "Let a server on another machine use this machine's container engine",
		Long: `Agent accepts connections from a builder's server and forwards them to the container engine of its
machine: to the unix socket in DOCKER_HOST, or to Docker's default socket. It uses TLS 1.3, and accepts only
clients with the server's key. The server needs IGLU_AGENT_KEYS and DOCKER_HOST=tcp://HOST:2376.
'iglu-builder agent keys' makes the keys.

The server's key gives full control of the agent's machine, as the engine's socket does.

On SIGTERM or Ctrl-C it continues, and accepts connections, while jobs run on the engine and
connections are in use, for at most --shutdown-grace. A second signal ends it immediately. The program
that stops the agent must wait as long: stop_grace_period in a stack file.

All flags except --listen are environment variables as well: --agent-keys is IGLU_AGENT_KEYS.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := server.ApplyEnviron(without(command.Flags(), "listen")); err != nil {
				return &exitError{exitUsage, err}
			}
			first, second, stop := onSignals(command.Context())
			defer stop()
			if err := runAgent(first, second, &s, s.Logger(command.ErrOrStderr())); err != nil {
				return &exitError{1, err}
			}
			return nil
		},
	}
	command.Flags().AddFlagSet(flags)
	command.AddCommand(agentKeysCommand(), agentCheckCommand())
	return command
}

// setDefault sets the default of a flag.
func setDefault(f *pflag.Flag, value string) {
	if err := f.Value.Set(value); err != nil {
		panic(err)
	}
	f.DefValue = value
}

// without returns the flags except one.
func without(flags *pflag.FlagSet, name string) *pflag.FlagSet {
	others := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != name {
			others.AddFlag(f)
		}
	})
	return others
}

// runAgent runs an agent until the first context has ended and no job runs on its engine.
func runAgent(first, second context.Context, s *server.Settings, log *slog.Logger) error {
	keys, err := readAgentKeys(s)
	if err != nil {
		return err
	}
	host := os.Getenv(client.EnvOverrideHost)
	if host == "" {
		host = client.DefaultDockerHost
	}
	socket, isSocket := strings.CutPrefix(host, "unix://")
	if !isSocket {
		return fmt.Errorf("DOCKER_HOST is %s, but an agent runs on the machine of its engine\nhint: set DOCKER_HOST to the engine's socket, such as unix:///var/run/docker.sock", host)
	}
	if _, err := anyRunning(first, host, log); err != nil {
		return err
	}
	return agent.Serve(first, second, agent.Options{
		Listen:  s.Listen,
		Keys:    keys,
		Socket:  socket,
		Program: selfProgram,
		Version: buildInfo().Version,
		Grace:   s.ShutdownGrace,
		Running: func(ctx context.Context) (bool, error) {
			running, err := anyRunning(ctx, host, log)
			if client.IsErrConnectionFailed(err) { // without the engine, no connection can be forwarded
				return false, nil
			}
			return running, err
		},
	}, log)
}

// anyRunning reports whether a builder's container runs on an engine. It connects anew each time: the engine may have been
// replaced by another version since the agent has started.
func anyRunning(ctx context.Context, host string, log *slog.Logger) (bool, error) {
	engine, err := docker.New(docker.Options{Host: host}, log)
	if err != nil {
		return false, err
	}
	defer engine.Close()
	return engine.AnyRunning(ctx)
}

func readAgentKeys(s *server.Settings) (*agent.Keys, error) {
	if s.AgentKeys == "" {
		return nil, errors.New("no keys: set --agent-keys or IGLU_AGENT_KEYS to their folder\nhint: 'iglu-builder agent keys DIR' makes them, in DIR/agent")
	}
	keys, err := agent.ReadKeys(s.AgentKeys)
	if err != nil {
		return nil, fmt.Errorf("read the agent's keys: %w\nhint: 'iglu-builder agent keys DIR' makes them, in DIR/agent", err)
	}
	if keys.AreServers() {
		return nil, fmt.Errorf("%s has the keys of the server, which belong on no other machine\nhint: an agent needs those in DIR/agent", s.AgentKeys)
	}
	return keys, nil
}

func agentKeysCommand() *cobra.Command {
	var hosts []string
	command := &cobra.Command{
		Use:   "keys DIR",
		Short: "Make the keys of a server and its agents",
		Long: `Keys makes two folders: DIR/server for the server, and DIR/agent for all its agents. Each has
three files:

  key.pem   the private key of this side, a secret
  cert.pem  the certificate of this side
  ca.pem    the certificate of the other side

Anyone with server/key.pem has full control of the agents' machines. Each side verifies the other
by these keys, at any address; the certificates do not expire. The files have the names that
Docker's own clients expect in DOCKER_CERT_PATH. These also verify the agent's host name, which must be one of
` + strings.Join(agent.HostNames, ", ") + `
or of --host.`,
		Example: "  iglu-builder agent keys keys",
		Args:    arguments(1, 1, "give the folder for the keys", "give one folder"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(command *cobra.Command, args []string) error {
			for _, host := range hosts {
				if !agent.IsHost(host) {
					return &exitError{exitUsage, fmt.Errorf("--host: %q is not the name or the address of a host, without a port", host)}
				}
			}
			if err := agent.MakeKeys(args[0], hosts); err != nil {
				return &exitError{1, err}
			}
			for _, side := range []string{"server", "agent"} {
				fmt.Fprintf(command.OutOrStdout(), "made %s\n", filepath.Join(args[0], side))
			}
			return nil
		},
	}
	command.Flags().StringSliceVar(&hosts, "host", nil, "one more `NAME` or address of an agent, for Docker's own clients")
	return command
}

func agentCheckCommand() *cobra.Command {
	var s server.Settings
	flags := settingFlags(&s, "listen", "agent-keys")
	setDefault(flags.Lookup("listen"), agentListen)
	command := &cobra.Command{
		Use:   "check",
		Short: "Check that an agent on this machine accepts connections",
		Long: `Check exits with 0 if an agent with the same keys answers at --listen, otherwise with 1. It is for the
health check of a container. It does not check the engine: a restart of the agent would not repair it.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			err := server.ApplyEnviron(without(command.Flags(), "listen"))
			if err == nil {
				err = checkAgent(command.Context(), &s)
			}
			if err != nil {
				return &exitError{exitUnhealthy, err}
			}
			return nil
		},
	}
	command.Flags().AddFlagSet(flags)
	return command
}

func checkAgent(ctx context.Context, s *server.Settings) error {
	keys, err := readAgentKeys(s)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	if err := agent.Check(ctx, keys, net.JoinHostPort(hostOnThisMachine(host), port)); err != nil {
		return fmt.Errorf("no agent answers: %w", err)
	}
	return nil
}
