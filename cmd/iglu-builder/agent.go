package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
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
	// agentListen is where agents listen, at the port of Docker's own API with TLS.
	agentListen = ":2376"
	// agentGrace is how long an agent goes on for running jobs: as long as a job may take.
	agentGrace = "6h"
)

func agentCommand() *cobra.Command {
	var s server.Settings
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(all)
	setDefault(all.Lookup("listen"), agentListen)
	setDefault(all.Lookup("shutdown-grace"), agentGrace)
	all.Lookup("shutdown-grace").Usage = "time that running jobs may continue after the agent is asked to stop"

	command := &cobra.Command{
		Use:   "agent",
		Short: "Let a server on another machine use this machine's container engine",
		Long: `Agent takes connections from a builder's server and passes them on to the container engine of its
machine: to the unix socket that DOCKER_HOST names, or Docker's own. It takes them from nobody but who
has the server's key, over TLS 1.3. The server has to be given IGLU_AGENT_KEYS and
DOCKER_HOST=tcp://HOST:2376. 'iglu-builder agent keys' makes the keys.

The server's key gives all power over the agent's machine, as the engine's socket does.

On SIGTERM or Ctrl-C it goes on, and accepts connections, for as long as jobs run on the engine and
connections are in use, at most --shutdown-grace. A second signal ends it at once. Let what
stops it wait as long: stop_grace_period in a stack file.

The flags but --listen are environment variables as well: --agent-keys is IGLU_AGENT_KEYS.`,
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
	for _, name := range []string{"listen", "agent-keys", "shutdown-grace", "log-format", "log-level"} {
		command.Flags().AddFlag(all.Lookup(name))
	}
	command.AddCommand(agentKeysCommand(), agentCheckCommand())
	return command
}

// setDefault gives a flag another default.
func setDefault(f *pflag.Flag, value string) {
	if err := f.Value.Set(value); err != nil {
		panic(err)
	}
	f.DefValue = value
}

// without returns flags less one.
func without(flags *pflag.FlagSet, name string) *pflag.FlagSet {
	others := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != name {
			others.AddFlag(f)
		}
	})
	return others
}

// runAgent runs an agent until the first context ends, and its jobs have.
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
		return fmt.Errorf("DOCKER_HOST is %s, and an agent runs beside its engine\nhint: let it name the engine's socket, as in unix:///var/run/docker.sock", host)
	}
	engine, err := docker.New(docker.Options{Host: host}, log)
	if err != nil {
		return err
	}
	defer engine.Close()
	if _, err := engine.AnyRunning(first); err != nil {
		return err
	}
	return agent.Serve(first, second, agent.Options{
		Listen: s.Listen,
		Keys:   keys,
		Socket: socket,
		Grace:  s.ShutdownGrace,
		Running: func(ctx context.Context) (bool, error) {
			running, err := engine.AnyRunning(ctx)
			if client.IsErrConnectionFailed(err) { // with the engine, all that could be passed on is gone
				return false, nil
			}
			return running, err
		},
	}, log)
}

func readAgentKeys(s *server.Settings) (*agent.Keys, error) {
	if s.AgentKeys == "" {
		return nil, errors.New("no keys: --agent-keys or IGLU_AGENT_KEYS names their folder\nhint: 'iglu-builder agent keys DIR' makes them, in DIR/agent")
	}
	keys, err := agent.ReadKeys(s.AgentKeys)
	if err != nil {
		return nil, fmt.Errorf("read the agent's keys: %w\nhint: 'iglu-builder agent keys DIR' makes them, in DIR/agent", err)
	}
	return keys, nil
}

func agentKeysCommand() *cobra.Command {
	var hosts []string
	command := &cobra.Command{
		Use:   "keys DIR",
		Short: "Make the keys of a server and its agents",
		Long: `Keys makes two folders: DIR/server is for the server alone, DIR/agent for each of its agents. Each has
three files:

  key.pem   the private key of this side, a secret
  cert.pem  its public half
  ca.pem    the public half of the other side

Whoever has server/key.pem has all power over the machines of the agents. The two sides know each
other by these keys, at any address and at any time. The files have the names that
Docker's own clients expect in DOCKER_CERT_PATH; these verify the agent's name as well, which is one of
` + strings.Join(agent.HostNames, ", ") + `
or of --host.`,
		Example: "  iglu-builder agent keys keys",
		Args:    cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
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
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(all)
	setDefault(all.Lookup("listen"), agentListen)
	command := &cobra.Command{
		Use:   "check",
		Short: "Ask whether an agent on this machine takes connections",
		Long: `Check exits with 0 if the agent with the same keys answers at --listen, and else with 1. It is for the
healthcheck of a container. The engine is not asked: a new agent would not help it.`,
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
	for _, name := range []string{"listen", "agent-keys"} {
		command.Flags().AddFlag(all.Lookup(name))
	}
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
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	if err := agent.Check(ctx, keys, net.JoinHostPort(host, port)); err != nil {
		return fmt.Errorf("no agent answers: %w", err)
	}
	return nil
}
