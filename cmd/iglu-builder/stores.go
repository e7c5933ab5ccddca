package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/orchestrator/stores"
)

func storesCommand() *cobra.Command {
	var s server.Settings
	command := &cobra.Command{
		Use:   "stores",
		Short: "List the Nix stores that a builder keeps between jobs",
		Long: `Stores lists the Nix stores that a builder keeps on the engine, the one that was used last
first: whose they are, the image that they were filled from, their size, when a job had them
last, and the job that has one now. Run it where the builder runs, with the same
--state-dir; in a container of it, for instance with docker-compose exec.`,
		Args: cobra.NoArgs,
		RunE: onStores(&s, func(ctx context.Context, pool *stores.Pool, _ []string, out io.Writer) error {
			found, err := pool.List(ctx)
			if err != nil {
				return err
			}
			return printStores(out, found)
		}),
	}
	var all bool
	remove := &cobra.Command{
		Use:   "rm NAME... | --all",
		Short: "Remove stores",
		Long: `Rm removes stores by their names, or all that the builder keeps. The next job of their
repository begins with the image's own store again. One that a job has stays.`,
		Example: "  iglu-builder stores rm iglu-builder-default-store-5f0c1e3d2b4a69788796\n" +
			"  iglu-builder stores rm --all",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name the stores, or say --all")
			}
			return nil
		},
		RunE: onStores(&s, func(ctx context.Context, pool *stores.Pool, names []string, out io.Writer) error {
			found, err := pool.List(ctx)
			if err != nil {
				return err
			}
			if all {
				names = nil
				for _, store := range found {
					names = append(names, store.Name)
				}
			}
			return removeStores(ctx, pool, names, found, out)
		}),
	}
	remove.Flags().BoolVar(&all, "all", false, "remove all of the instance")
	remove.ValidArgsFunction = completeStores(&s)
	command.AddCommand(remove)
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(flags)
	for _, name := range []string{"instance", "state-dir", "agent-keys"} {
		command.PersistentFlags().AddFlag(flags.Lookup(name))
	}
	completeSettings(command, command.PersistentFlags())
	return command
}

// storesTimeout bounds the whole of what is done with stores by hand.
const storesTimeout = 5 * time.Minute

// onStores returns a command's function that works on an instance's stores.
func onStores(s *server.Settings, work func(ctx context.Context, pool *stores.Pool, args []string, out io.Writer) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, args []string) error {
		if err := server.ApplyEnviron(command.Flags()); err != nil {
			return &exitError{exitUsage, err}
		}
		ctx, cancel := context.WithTimeout(command.Context(), storesTimeout)
		defer cancel()
		silent := slog.New(slog.DiscardHandler)
		engine, err := s.OpenEngine("", silent)
		if err == nil {
			defer engine.Close()
			err = work(ctx, stores.New(engine, s.Stores(), silent), args, command.OutOrStdout())
		}
		if err != nil {
			return &exitError{1, err}
		}
		return nil
	}
}

func printStores(out io.Writer, found []stores.Store) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tREPOSITORY\tIMAGE\tSIZE\tLAST USED\tJOB")
	for _, store := range found {
		size, used := "?", "?"
		if store.Bytes > 0 {
			size = units.BytesSize(float64(store.Bytes))
		}
		if !store.Used.IsZero() {
			used = store.Used.Local().Format(time.DateTime)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", store.Name, termtext.Visible(cmp.Or(store.Repository, "(all jobs)")), termtext.Visible(store.Image),
			size, used, cmp.Or(store.Job, "-"))
	}
	return table.Flush()
}

// removeStores goes on after a failure.
func removeStores(ctx context.Context, pool *stores.Pool, names []string, found []stores.Store, out io.Writer) error {
	var failed error
	for _, name := range names {
		if !slices.ContainsFunc(found, func(s stores.Store) bool { return s.Name == name }) {
			failed = errors.Join(failed, fmt.Errorf("there is no store %s\nhint: 'iglu-builder stores' lists them", name))
		} else if err := pool.Remove(ctx, name); err != nil {
			failed = errors.Join(failed, err)
		} else {
			fmt.Fprintf(out, "removed store %s\n", name)
		}
	}
	return failed
}
