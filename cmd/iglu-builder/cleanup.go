package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
)

// cleanupTimeout limits a whole clean-up.
const cleanupTimeout = 5 * time.Minute

func cleanupCommand() *cobra.Command {
	var s server.Settings
	command := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what a builder has left on the engine",
		Long: `Cleanup removes every container, volume and network on the engine that has the label of an
instance, except for its Nix stores: see 'iglu-builder stores'.
While a container of the instance is running, it removes nothing: stop the builders first.
A running builder removes the containers that a dead builder of its instance has left.

It prints a line for each container, volume and network that it removes. With --nodes it does so on every
node, and exits with 1 if a node cannot be reached or has a running container of the instance.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(command.Context(), cleanupTimeout)
			defer cancel()
			return onNodes(ctx, command, &s, func(nodes []server.Node) error { return cleanUp(ctx, nodes, command.OutOrStdout()) })
		},
	}
	command.Flags().AddFlagSet(settingFlags(&s, "instance", "agent-keys", "nodes"))
	return command
}

// cleanUp cleans up on each node. After a failure it continues with the next node.
func cleanUp(ctx context.Context, nodes []server.Node, out io.Writer) (failed error) {
	for _, n := range nodes {
		err := orchestrator.Cleanup(ctx, n.Engine, func(kind, name string) {
			fmt.Fprintf(out, "removed %s %s%s\n", kind, name, where(n.Name))
		})
		failed = errors.Join(failed, onNode(n.Name, err))
	}
	return failed
}
