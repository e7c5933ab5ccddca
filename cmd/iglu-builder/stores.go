package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/internal/termtext"
)

func storesCommand() *cobra.Command {
	var s server.Settings
	command := &cobra.Command{
		Use:   "stores",
		Short: "List the Nix stores that a builder keeps between jobs",
		Long: `Stores lists the Nix stores that a builder keeps on the engine, the most recently used first,
each with its repository, the image that it was made from, its size, the time of its last
use, and the job that uses it now. Run it on the builder's machine with the same
--state-dir, or in the builder's container, for example with docker compose exec.

With --nodes it lists the stores of every node, and shows the node of each. If a node cannot be
reached, it prints the reason and exits with 1.`,
		Args: cobra.NoArgs,
		RunE: onStores(&s, func(_ context.Context, pools []pool, _ []string, out io.Writer) error {
			return printStores(out, pools)
		}),
	}
	var all bool
	remove := &cobra.Command{
		Use:   "rm NAME... | --all",
		Short: "Remove stores",
		Long: `Rm removes the stores with the given names, or all stores of the builder. The next job that needs
one of them creates a new store from the image. A store that a job is using is not removed.
With --nodes it removes the stores on every node that has them.`,
		Example: "  iglu-builder stores rm iglu-builder-default-store-5f0c1e3d2b4a69788796\n" +
			"  iglu-builder stores rm --all",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("give the names of stores, or --all")
			}
			return nil
		},
		RunE: onStores(&s, func(ctx context.Context, pools []pool, names []string, out io.Writer) error {
			return removeStores(ctx, pools, names, all, out)
		}),
	}
	remove.Flags().BoolVar(&all, "all", false, "remove all stores of the instance")
	remove.ValidArgsFunction = completeStores(&s)
	command.AddCommand(remove)
	command.PersistentFlags().AddFlagSet(settingFlags(&s, "instance", "state-dir", "agent-keys", "nodes"))
	return command
}

// storesTimeout limits a whole command.
const storesTimeout = 5 * time.Minute

// onStores returns a command's RunE, which calls work with the stores of all nodes that can be reached.
func onStores(s *server.Settings, work func(ctx context.Context, pools []pool, args []string, out io.Writer) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(command.Context(), storesTimeout)
		defer cancel()
		return onNodes(ctx, command, s, func(nodes []server.Node) error {
			pools, failed := poolsOf(ctx, nodes)
			if len(pools) == 0 {
				return failed
			}
			return errors.Join(failed, work(ctx, pools, args, command.OutOrStdout()))
		})
	}
}

// printStores prints a table of stores. It has a column for the node if there are several.
func printStores(out io.Writer, pools []pool) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	node := func(text string) string {
		if pools[0].node == "" {
			return ""
		}
		return termtext.Visible(text) + "\t"
	}
	fmt.Fprintf(table, "NAME\t%sREPOSITORY\tIMAGE\tSIZE\tLAST USED\tJOB\n", node("NODE"))
	for _, p := range pools {
		for _, store := range p.found {
			size, used := "?", "?"
			if store.Bytes > 0 {
				size = units.BytesSize(float64(store.Bytes))
			}
			if !store.Used.IsZero() {
				used = store.Used.Local().Format(time.DateTime)
			}
			fmt.Fprintf(table, "%s\t%s%s\t%s\t%s\t%s\t%s\n", store.Name, node(p.node), termtext.Visible(cmp.Or(store.Repository, "(all jobs)")),
				termtext.Visible(store.Image), size, used, cmp.Or(store.Job, "-"))
		}
	}
	return table.Flush()
}

// removeStores removes the stores with the given names, or all, on each node. After a failure it continues
// with the next store.
func removeStores(ctx context.Context, pools []pool, names []string, all bool, out io.Writer) error {
	var failed error
	known := make(map[string]bool)
	for _, p := range pools {
		for _, store := range p.found {
			if known[store.Name] = true; !all && !slices.Contains(names, store.Name) {
				continue
			}
			if err := p.Remove(ctx, store.Name); err != nil {
				failed = errors.Join(failed, onNode(p.node, err))
			} else {
				fmt.Fprintf(out, "removed store %s%s\n", store.Name, where(p.node))
			}
		}
	}
	for _, name := range names {
		if !known[name] {
			failed = errors.Join(failed, fmt.Errorf("there is no store %s\nhint: 'iglu-builder stores' lists them", name))
		}
	}
	return failed
}
