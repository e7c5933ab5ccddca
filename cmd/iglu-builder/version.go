package main

import (
	"cmp"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/metrics"
)

// version and revision are the version of a release and its commit. The build of a release sets them:
// -ldflags '-X main.version=1.2.3 -X main.revision=0123abc'.
var version, revision string

// buildInfo returns the version of the release, or else of the Go module, and the commit. They are empty if
// neither the build nor Go has recorded them.
func buildInfo() metrics.Build {
	build := metrics.Build{Version: version, Revision: revision}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return build
	}
	build.Version = cmp.Or(version, info.Main.Version, "(devel)")
	build.GoVersion = info.GoVersion
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			build.Revision = cmp.Or(revision, setting.Value)
		}
	}
	return build
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Long:  "Version prints the version, the commit if it is known, and the version of Go.",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(command.OutOrStdout(), versionText())
			return err
		},
	}
}

// versionText returns the program's name, its version, the commit if it is known, and the version of Go.
func versionText() string {
	build := buildInfo()
	revision := ""
	if build.Revision != "" {
		revision = " " + build.Revision
	}
	return fmt.Sprintf("iglu-builder %s%s %s", build.Version, revision, build.GoVersion)
}
