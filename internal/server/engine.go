package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"iglu.sh/builder/internal/agent"
	"iglu.sh/builder/orchestrator/docker"
)

// openOne returns the container engine of the settings. program is the file of the program that runs in the
// containers.
func (s *Settings) openOne(program string, log *slog.Logger) (*docker.Engine, error) {
	dial, err := s.agentDial()
	if err != nil {
		return nil, err
	}
	return s.openEngine(s.EngineHost, dial, program, log)
}

// A dialer connects to an engine, or to its agent.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// openEngine returns the engine of a host. dial is nil for an engine without an agent.
func (s *Settings) openEngine(host string, dial dialer, program string, log *slog.Logger) (*docker.Engine, error) {
	if strings.HasPrefix(cmp.Or(host, os.Getenv("DOCKER_HOST")), "ssh://") { // which the library takes for http://
		return nil, errors.New("DOCKER_HOST is an address with ssh://, which the builder cannot use: on another machine it needs an agent\nhint: see docs/several-machines.md")
	}
	engine, err := docker.New(docker.Options{
		Host:          host,
		Instance:      s.Instance,
		Image:         s.JobImage,
		Pull:          s.Pull,
		Network:       s.JobNetwork,
		Program:       program,
		Sandbox:       s.Sandbox,
		SandboxUnsafe: s.SandboxUnsafe,
		Dial:          dial,
	}, log)
	if err != nil {
		return nil, fmt.Errorf("%w\nhint: set DOCKER_HOST to the engine's address, such as unix:///var/run/docker.sock", err)
	}
	return engine, nil
}

// agentDial returns the dialer for the engine's agent, or nil if there is no agent.
func (s *Settings) agentDial() (dialer, error) {
	if s.AgentKeys == "" {
		return nil, nil
	}
	host, isTCP := strings.CutPrefix(cmp.Or(s.EngineHost, os.Getenv("DOCKER_HOST")), "tcp://")
	if _, _, err := net.SplitHostPort(host); err != nil || !isTCP {
		return nil, errors.New("IGLU_AGENT_KEYS is set, and DOCKER_HOST does not say where the agent listens\nhint: DOCKER_HOST=tcp://HOST:2376")
	}
	keys, err := s.readKeys()
	if err != nil {
		return nil, err
	}
	return dialing(keys), nil
}

// readKeys returns the keys of the settings, to connect to agents with.
func (s *Settings) readKeys() (*agent.Keys, error) {
	keys, err := agent.ReadKeys(s.AgentKeys)
	if err != nil {
		return nil, fmt.Errorf("read the keys in IGLU_AGENT_KEYS: %w\nhint: 'iglu-builder agent keys DIR' makes them, in DIR/server", err)
	}
	if keys.AreAgents() {
		return nil, errors.New("IGLU_AGENT_KEYS has the keys of agents\nhint: a server needs those in DIR/server, which 'iglu-builder agent keys DIR' makes")
	}
	return keys, nil
}

func dialing(keys *agent.Keys) dialer {
	return func(ctx context.Context, _, address string) (net.Conn, error) { return keys.Dial(ctx, address) }
}
