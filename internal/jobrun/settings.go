package jobrun

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixconf"
)

// Nix sends the settings in NIX_CONFIG to the daemon, too, which accepts only few of them from a user and
// warns about the others. So the settings for the daemon and all programs are in a nix.conf. It is in a
// folder of its own, because the image's folder may be in the store. Settings for the daemon only, or for
// the job's user only, are elsewhere.

// confVariable is the variable with the folder of Nix's settings: nix.conf(5).
const confVariable = "NIX_CONF_DIR"

// confOfJob is the folder for the settings of a job.
const confOfJob = "/etc/iglu-nix"

// confOfImage returns the folder of the job image.
func confOfImage() string { return cmp.Or(os.Getenv(confVariable), "/etc/nix") }

// readConfOfImage returns the settings of the job image, including those in files that its nix.conf includes, or nothing
// if it has none.
func readConfOfImage() string { return nixconf.ReadFile(filepath.Join(confOfImage(), "nix.conf")) }

// settingsOfOthers returns the settings of the job image, and then those of the operator.
func settingsOfOthers(job jobenv.Job) string { return readConfOfImage() + "\n" + job.NixConf }

// writeConf makes the folder for a job's settings. Its nix.conf has the image's settings and then the given
// lines. It has the other files of the image's folder as well.
func writeConf(folder, image, lines string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	entries, _ := os.ReadDir(image) // there may be none
	for _, entry := range entries {
		if entry.Name() != "nix.conf" {
			if err := os.Symlink(filepath.Join(image, entry.Name()), filepath.Join(folder, entry.Name())); err != nil {
				return err
			}
		}
	}
	text := "!include " + filepath.Join(image, "nix.conf") + "\n" + lines
	return os.WriteFile(filepath.Join(folder, "nix.conf"), []byte(text), 0o644)
}

// withSettings adds lines to NIX_CONFIG in an environment.
func withSettings(environ []string, lines string) []string {
	config := ""
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, jobenv.NixConfig+"="); ok {
			config = value
		}
	}
	return with(environ, jobenv.NixConfig+"="+strings.TrimSuffix(config, "\n")+"\n"+lines)
}

// tokenSettings returns the setting with the job's tokens and with the image's tokens for other hosts. It
// is not an "extra-" setting, because that would not replace the image's tokens.
func tokenSettings(tokens, confOfImage string) string {
	all := append(nixconf.List(confOfImage, "access-tokens"), tokens)
	var lines nixconf.Lines
	lines.SetList("access-tokens", strings.Fields(jobenv.JoinTokens(jobenv.SplitTokens(strings.Join(all, " ")))))
	return lines.String()
}
