package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
)

// cleanupTimeout bounds the whole of a clean-up.
const cleanupTimeout = 5 * time.Minute

func cleanupCommand() *cobra.Command {
	var s server.Settings
	command := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what a builder has left on the engine",
		Long: `Cleanup removes every container, volume and network on the engine that carries the label
of an instance, and nothing else; its Nix stores stay, which 'iglu-builder stores' is for.
While a container of the instance is running, it removes nothing: stop the builders first.
Containers that a dead builder leaves are removed by any builder of its instance.

It prints a line for each thing that it removes.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := server.ApplyEnviron(command.Flags()); err != nil {
				return &exitError{exitUsage, err}
			}
			ctx, cancel := context.WithTimeout(command.Context(), cleanupTimeout)
			defer cancel()
			engine, err := s.OpenEngine("", slog.New(slog.DiscardHandler))
			if err != nil {
				return &exitError{1, err}
			}
			defer engine.Close()
			if err := orchestrator.Cleanup(ctx, engine, func(kind, name string) {
				fmt.Fprintf(command.OutOrStdout(), "removed %s %s\n", kind, name)
			}); err != nil {
				return &exitError{1, err}
			}
			return nil
		},
	}
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(all)
	command.Flags().AddFlag(all.Lookup("instance"))
	command.Flags().AddFlag(all.Lookup("agent-keys"))
	return command
}
