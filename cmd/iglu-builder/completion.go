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

// completeSettings has a shell offer the values that the flags of a command can have: of settings as their
// kinds say, and files for other flags that name one.
func completeSettings(command *cobra.Command, flags *pflag.FlagSet) {
	kinds := make(map[string]server.Kind)
	for _, setting := range server.Table() {
		kinds[setting.Flag] = setting.Kind
	}
	flags.VisitAll(func(f *pflag.Flag) {
		kind := kinds[f.Name]
		if strings.HasSuffix(f.Name, "-file") {
			kind.Type = server.File
		}
		if f.Name == "help" {
			return
		}
		if err := command.RegisterFlagCompletionFunc(f.Name, complete(kind)); err != nil {
			panic(err) // there is the flag, and it is registered once
		}
	})
}

// complete completes a setting as its kind says.
func complete(kind server.Kind) cobra.CompletionFunc {
	directive := cobra.ShellCompDirectiveNoFileComp
	switch kind.Type {
	case server.File:
		directive = cobra.ShellCompDirectiveDefault
	case server.Folder:
		directive = cobra.ShellCompDirectiveFilterDirs
	}
	return cobra.FixedCompletions(kind.Words, directive)
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
