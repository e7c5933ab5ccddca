// Iglu-builder is a server that runs Nix builds in containers for clients of its WebSocket, and the
// command-line client of that server. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobrun"
)

func main() {
	// Git runs the program under this name to ask for a user or a password.
	if filepath.Base(os.Args[0]) == jobenv.Askpass && len(os.Args) == 2 {
		os.Exit(jobrun.Askpass(os.Args[1]))
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// exitError is an error with the exit code of the program.
type exitError struct {
	code int
	err  error // nil: nothing is printed
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }

func (e *exitError) Unwrap() error { return e.err }

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "iglu-builder",
		Short:         "Build Nix derivations in containers and push them to a cache",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(commands()...)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)

	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*exitError](err)
	if !ok { // cobra's own: the command line is wrong
		exit = &exitError{code: usageCode(command), err: fmt.Errorf("%w\nhint: see '%s --help'", err, command.CommandPath())}
	}
	if exit.err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", command.CommandPath(), exit.err)
	}
	return exit.code
}

// commands returns the program's commands, without those that the library adds.
func commands() []*cobra.Command {
	return []*cobra.Command{
		serveCommand(), buildCommand(), watchCommand(), cancelCommand(), logCommand(), jobCommand(), cleanupCommand(),
		storesCommand(), agentCommand(), healthcheckCommand(), versionCommand(),
	}
}

// exitUsage is the exit code if the command line or a setting is wrong.
const exitUsage = 2

// usageCode returns exitUsage, except for commands whose exit code is that of a build, or is read by a
// container engine.
func usageCode(command *cobra.Command) int {
	switch command.Name() {
	case "build", "watch", "cancel", "log":
		return buildclient.ExitClient
	case "healthcheck", "check":
		return exitUnhealthy
	}
	return exitUsage
}
