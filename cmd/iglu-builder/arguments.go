package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/server"
)

// arguments returns a check of how many arguments a command has. The errors are sentences: missing is for too few, and
// possible says after the first superfluous one what can be given.
func arguments(least, most int, missing, possible string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return errors.New(missing)
		case len(args) > most:
			return fmt.Errorf("unexpected argument %q: %s", args[most], possible)
		}
		return nil
	}
}

// settingFlags returns those of the server's flags that another command has as well.
func settingFlags(s *server.Settings, names ...string) *pflag.FlagSet {
	all, some := pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(all)
	for _, name := range names {
		some.AddFlag(all.Lookup(name))
	}
	return some
}
