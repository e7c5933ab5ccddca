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
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/internal/termtext"
)

func storesCommand() *cobra.Command {
	var s server.Settings
	command := &cobra.Command{
		Use:   "stores",
		Short: "List the Nix stores that a builder keeps between jobs",
		Long: `Stores lists the Nix stores that a builder keeps on the engine, the one that was used last
first: whose they are, the image that they were filled from, their size, when a job had them
last, and the job that has one now. Run it where the builder runs, with the same
--state-dir; in a container of it, for instance with docker-compose exec.

With --nodes it lists those of every node, and says which node has a store. It exits with 1 if a
node cannot be reached, and says why.`,
		Args: cobra.NoArgs,
		RunE: onStores(&s, func(_ context.Context, pools []pool, _ []string, out io.Writer) error {
			return printStores(out, pools)
		}),
	}
	var all bool
	remove := &cobra.Command{
		Use:   "rm NAME... | --all",
		Short: "Remove stores",
		Long: `Rm removes stores by their names, or all that the builder keeps. The next job of their
repository begins with the image's own store again. One that a job has stays.
With --nodes it removes them on every node that has them.`,
		Example: "  iglu-builder stores rm iglu-builder-default-store-5f0c1e3d2b4a69788796\n" +
			"  iglu-builder stores rm --all",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name the stores, or say --all")
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
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(flags)
	for _, name := range []string{"instance", "state-dir", "agent-keys", "nodes"} {
		command.PersistentFlags().AddFlag(flags.Lookup(name))
	}
	completeSettings(command, command.PersistentFlags())
	return command
}

// storesTimeout bounds the whole of what is done with stores by hand.
const storesTimeout = 5 * time.Minute

// onStores returns a command's function that works on an instance's stores, on all nodes that can be reached.
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

// printStores prints a table, which says of which node each store is if there are several.
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

// removeStores removes the stores that have one of the names, or all, on each node. It goes on after a failure.
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
