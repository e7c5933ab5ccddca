package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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

It prints a line for each thing that it removes. With --nodes it does so on every node, and exits
with 1 if one cannot be reached or a container runs there.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(command.Context(), cleanupTimeout)
			defer cancel()
			return onNodes(ctx, command, &s, func(nodes []server.Node) error { return cleanUp(ctx, nodes, command.OutOrStdout()) })
		},
	}
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(all)
	for _, name := range []string{"instance", "agent-keys", "nodes"} {
		command.Flags().AddFlag(all.Lookup(name))
	}
	return command
}

// cleanUp cleans up on each node. It goes on after a failure.
func cleanUp(ctx context.Context, nodes []server.Node, out io.Writer) (failed error) {
	for _, n := range nodes {
		err := orchestrator.Cleanup(ctx, n.Engine, func(kind, name string) {
			fmt.Fprintf(out, "removed %s %s%s\n", kind, name, where(n.Name))
		})
		failed = errors.Join(failed, onNode(n.Name, err))
	}
	return failed
}
