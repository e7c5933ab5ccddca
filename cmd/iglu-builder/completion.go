package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/orchestrator/stores"
)

// completeSettings has a shell offer the values that the settings of a command can have, and files where one
// is a file.
func completeSettings(command *cobra.Command, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || slices.Contains(server.Files, f.Name) || strings.HasSuffix(f.Name, "-file") {
			return
		}
		offer := cobra.FixedCompletions(server.Choices[f.Name], cobra.ShellCompDirectiveNoFileComp)
		if err := command.RegisterFlagCompletionFunc(f.Name, offer); err != nil {
			panic(err) // there is the flag, and it is registered once
		}
	})
}

// completionTimeout is how long a person waits for what a shell offers.
const completionTimeout = 2 * time.Second

// completeStores has a shell offer the names of stores, if the engine answers.
func completeStores(s *server.Settings) cobra.CompletionFunc {
	return func(command *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if err := server.ApplyEnviron(command.Flags()); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		engine, err := docker.New(docker.Options{Instance: s.Instance}, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer engine.Close()
		ctx, cancel := context.WithTimeout(command.Context(), completionTimeout)
		defer cancel()
		found, err := stores.New(engine, s.Stores(), slog.New(slog.DiscardHandler)).List(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, store := range found {
			if !slices.Contains(given, store.Name) {
				names = append(names, store.Name+"\t"+store.Repository)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
