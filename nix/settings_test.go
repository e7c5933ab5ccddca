// Package nix generates the options of the NixOS module from the table of settings.
package nix

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/server"
)

var update = flag.Bool("update", false, "write settings.nix")

// TestSettings compares settings.nix, the options of the NixOS module, with the table of settings.
func TestSettings(t *testing.T) {
	want := options(server.Table())
	if *update {
		if err := os.WriteFile("settings.nix", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("settings.nix")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("nix/settings.nix is not of the table of settings; go test ./nix -update writes it (-want +got):\n%s", diff)
	}
}

// onNixOS returns a setting with its default on NixOS, where the service has a state folder and a time to stop.
func onNixOS(s server.Setting) server.Setting {
	switch s.Flag {
	case "state-dir":
		s.Default = "/var/lib/iglu-builder"
	case "stop-timeout":
		s.Default, s.Kind.Words = "90s", nil
		s.Usage = "time between the request to stop and the kill by systemd"
	}
	return s
}

// options returns the text of settings.nix.
func options(table []server.Setting) string {
	var text strings.Builder
	text.WriteString(`# The settings of the builder as options of NixOS, made from the table of settings in internal/server:
#
#   go test ./nix -update
{ lib }:

let
  inherit (lib) mkOption types;
in
{
  # The settings that name a file.
  files = [
`)
	for _, setting := range table {
		if setting.Kind.Type == server.File {
			fmt.Fprintf(&text, "    %s\n", quote(setting.Flag))
		}
	}
	text.WriteString("  ];\n\n  options = {\n")
	for i, setting := range table {
		setting = onNixOS(setting)
		if i > 0 {
			text.WriteString("\n")
		}
		fmt.Fprintf(&text, "    %s = mkOption {\n      type = %s;\n      default = %s;\n      description = %s;\n    };\n",
			setting.Flag, optionType(setting), initial(setting), quote(description(setting)))
	}
	text.WriteString("  };\n}\n")
	return text.String()
}

// optionType returns the type of a setting's option. A setting without a default may be null.
func optionType(s server.Setting) string {
	if s.Default == "" && s.Kind.Type != server.List {
		return "types.nullOr (" + plainType(s) + ")"
	}
	return plainType(s)
}

func plainType(s server.Setting) string {
	words := "types.enum " + nixList(s.Kind.Words)
	other := ""
	switch s.Kind.Type {
	case server.Word:
		return words
	case server.YesNo:
		return "types.bool"
	case server.Number:
		other = fmt.Sprintf("types.ints.between %d %d", s.Kind.Min, s.Kind.Max)
	case server.List:
		list := "types.listOf"
		if s.Default != "" {
			list = "types.nonEmptyListOf" // an empty one would be the default
		}
		other = list + ` (types.strMatching "[^,]+")`
	case server.File, server.Folder:
		other = `types.strMatching "/.+"`
	case server.Text:
		form := s.Kind.Form
		if form == "" {
			form = ".+" // an empty variable would be the default
		}
		other = "types.strMatching " + quote(form)
	default:
		panic("no option has the type " + string(s.Kind.Type))
	}
	if len(s.Kind.Words) > 0 {
		return "types.either (" + words + ") (" + other + ")"
	}
	return other
}

// initial returns the default of a setting's option.
func initial(s server.Setting) string {
	switch {
	case s.Kind.Type == server.List && s.Default == "":
		return "[ ]"
	case s.Kind.Type == server.List:
		return nixList(strings.Split(s.Default, ","))
	case s.Default == "":
		return "null"
	case s.Kind.Type == server.YesNo:
		return map[string]string{"yes": "true", "no": "false"}[s.Default]
	case s.Kind.Type == server.Number && !slices.Contains(s.Kind.Words, s.Default):
		return s.Default
	}
	return quote(s.Default)
}

var (
	flagName  = regexp.MustCompile(`--([a-z-]+(?:=[a-z]+)?)`)
	isDefault = regexp.MustCompile(` \(default ([^)]*)\)`)
)

// description returns a flag's usage text as Markdown, with the names of the options in Nix.
func description(s server.Setting) string {
	text := isDefault.ReplaceAllString(s.Usage, "; by default $1")
	text = strings.Replace(text, ", separated by commas", "", 1)
	text = flagName.ReplaceAllString(text, "`$1`")
	return strings.ToUpper(text[:1]) + text[1:] + " (`" + s.Env + "`)."
}

func nixList(texts []string) string {
	var quoted []string
	for _, text := range texts {
		quoted = append(quoted, quote(text))
	}
	return "[ " + strings.Join(quoted, " ") + " ]"
}

// quote returns a string literal of Nix.
func quote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`, "\n", `\n`).Replace(text) + `"`
}
