package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/server"
)

// completeAll makes a shell complete the values of all commands' flags: the words that a setting takes,
// and files and folders. Everything else is completed with files only if a command says so.
func completeAll(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	kinds := make(map[string]server.Kind)
	for _, setting := range server.Table() {
		kinds[setting.Flag] = setting.Kind
	}
	kinds[stateFlag] = server.Kind{Words: buildclient.JobStates}
	commands := root.Commands()
	for len(commands) > 0 {
		command := commands[0]
		commands = append(commands[1:], command.Commands()...)
		completeFlags(command, command.Flags(), kinds)
		completeFlags(command, command.PersistentFlags(), kinds)
	}
}

func completeFlags(command *cobra.Command, flags *pflag.FlagSet, kinds map[string]server.Kind) {
	flags.VisitAll(func(f *pflag.Flag) {
		kind := kinds[f.Name]
		if strings.HasSuffix(f.Name, "-file") {
			kind.Type = server.File
		}
		if f.Name == "help" {
			return
		}
		if err := command.RegisterFlagCompletionFunc(f.Name, complete(kind)); err != nil {
			panic(err) // the flag exists and is registered once
		}
	})
}

// complete returns a function that completes the values of a kind.
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

// completionTimeout limits a completion that asks engines: a person waits for it.
const completionTimeout = 2 * time.Second

// completeStores makes a shell complete the names of stores on all engines that answer.
func completeStores(s *server.Settings) cobra.CompletionFunc {
	return func(command *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(command.Context(), completionTimeout)
		defer cancel()
		var names []string
		err := onNodes(ctx, command, s, func(nodes []server.Node) error {
			pools, failed := poolsOf(ctx, nodes)
			for _, p := range pools {
				for _, store := range p.found {
					if !slices.Contains(given, store.Name) {
						names = append(names, store.Name+"\t"+store.Repository)
					}
				}
			}
			return failed
		})
		if err != nil && names == nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
