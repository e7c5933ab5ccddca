package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator/stores"
)

// onNodes calls work with the nodes of the settings that can be reached. It returns the errors of the other
// nodes, followed by that of work.
func onNodes(ctx context.Context, command *cobra.Command, s *server.Settings, work func(nodes []server.Node) error) error {
	if err := server.ApplyEnviron(command.Flags()); err != nil {
		return &exitError{exitUsage, err}
	}
	nodes, failed := s.OpenNodes(ctx, slog.New(slog.DiscardHandler))
	defer func() {
		for _, n := range nodes {
			n.Engine.Close()
		}
	}()
	if len(nodes) > 0 {
		failed = errors.Join(failed, work(nodes))
	}
	if failed != nil {
		return &exitError{1, failed}
	}
	return nil
}

// A pool has the stores of a node, or of the only engine.
type pool struct {
	*stores.Pool
	node  string // empty: there is one engine
	found []stores.Store
}

// poolsOf returns the stores of nodes. The error has the nodes whose stores cannot be listed, and the reasons.
func poolsOf(ctx context.Context, nodes []server.Node) (pools []pool, failed error) {
	for _, n := range nodes {
		p := pool{Pool: stores.New(n.Engine, n.Stores, slog.New(slog.DiscardHandler)), node: n.Name}
		var err error
		if p.found, err = p.List(ctx); err != nil {
			failed = errors.Join(failed, onNode(n.Name, err))
			continue
		}
		pools = append(pools, p)
	}
	return pools, failed
}

// onNode adds the name of the node to an error, if there are several nodes.
func onNode(name string, err error) error {
	if name == "" || err == nil {
		return err
	}
	return fmt.Errorf("node %s: %w", name, err)
}

// where returns " on node NAME", or "" if there is one engine.
func where(name string) string {
	if name == "" {
		return ""
	}
	return " on node " + name
}
