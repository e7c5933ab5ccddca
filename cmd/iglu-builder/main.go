// Iglu-builder is a server that runs Nix builds in containers for clients of its WebSocket, and the
// command-line client of that server. See README.md.
package main

import (
	"bytes"
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
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout) // before the library's command completion, which keeps it
	root.SetErr(stderr)
	root.AddCommand(commands()...)
	addLibraryCommands(root)
	completeAll(root)
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	printed := printHelp(root, stdout)
	started := false // a command has begun, so the command line is valid
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }

	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		err, started = printed(), true
	}
	if err == nil {
		return 0
	}
	started = started || root.Flags().Changed("version") // the library has printed the version
	exit, ok := errors.AsType[*exitError](err)
	switch {
	case !ok && started:
		exit = &exitError{1, err}
	case !ok: // cobra's own: the command line is wrong
		exit = &exitError{code: usageCode(command), err: fmt.Errorf("%w\nhint: see '%s --help'", err, command.CommandPath())}
	}
	if exit.err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", command.CommandPath(), exit.err)
	}
	return exit.code
}

// printHelp makes the library print helps to out. The returned function returns the error of that, which the library
// ignores.
func printHelp(root *cobra.Command, out io.Writer) (printed func() error) {
	var failed error
	print := root.HelpFunc()
	root.SetHelpFunc(func(command *cobra.Command, args []string) {
		var text bytes.Buffer
		command.SetOut(&text)
		print(command, args)
		_, failed = out.Write(text.Bytes())
	})
	return func() error { return failed }
}

// addLibraryCommands adds the commands of the library, help and completion. Unlike the library, they fail if their
// argument is unknown.
func addLibraryCommands(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, command := range root.Commands() {
		switch command.Name() {
		case "help":
			command.Run, command.RunE = nil, showHelp
		case "completion":
			command.RunE = func(command *cobra.Command, _ []string) error { return command.Help() }
		}
	}
}

// showHelp prints the help of the command in the arguments.
func showHelp(help *cobra.Command, args []string) error {
	command, rest, err := help.Root().Find(args)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unknown command %q for %q", rest[0], command.CommandPath())
	}
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("%w\nhint: see '%s --help'", err, command.CommandPath())}
	}
	command.InitDefaultHelpFlag()
	return command.Help()
}

// commands returns the program's commands, without those that the library adds.
func commands() []*cobra.Command {
	return []*cobra.Command{
		serveCommand(), buildCommand(), watchCommand(), cancelCommand(), jobsCommand(), logCommand(), jobCommand(), cleanupCommand(),
		storesCommand(), agentCommand(), healthcheckCommand(), versionCommand(),
	}
}

// exitUsage is the exit code if the command line or a setting is wrong.
const exitUsage = 2

// usageCode returns exitUsage, except for commands whose exit code is that of a build, or is read by a
// container engine.
func usageCode(command *cobra.Command) int {
	switch command.Name() {
	case "build", "watch", "cancel", "jobs", "log":
		return buildclient.ExitClient
	case "healthcheck", "check":
		return exitUnhealthy
	}
	return exitUsage
}
