package jobrun

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixconf"
)

// What a program of the job tells Nix by NIX_CONFIG it also tells the daemon, which takes little of
// it from a user and warns of the rest. So what the daemon and all programs are to know stands in
// a nix.conf, which lies in a folder of the container's own: that of the image may be in the store.
// What only the daemon, or only the job's user, may know has places of its own.

// confVariable names the folder of Nix's settings: nix.conf(5).
const confVariable = "NIX_CONF_DIR"

// confOfJob is that of a job for which there is something to set.
const confOfJob = "/etc/iglu-nix"

// confOfImage returns that of the job image.
func confOfImage() string { return cmp.Or(os.Getenv(confVariable), "/etc/nix") }

// readConfOfImage returns the settings of the job image, or nothing if it has none.
func readConfOfImage() string {
	text, _ := os.ReadFile(filepath.Join(confOfImage(), "nix.conf"))
	return string(text)
}

// writeConf makes a folder for a job's settings: lines come after what the image has, and what else
// lies in the image's folder is there, too.
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

// tokenSettings returns what has Nix show tokens to the hosts that they are for, and to other hosts
// those that the image has. A line that adds would not replace the image's.
func tokenSettings(tokens, confOfImage string) string {
	ofImage, _ := nixconf.Get(confOfImage, "access-tokens")
	var lines nixconf.Lines
	lines.SetList("access-tokens", strings.Fields(jobenv.JoinTokens(jobenv.SplitTokens(ofImage+" "+tokens))))
	return lines.String()
}
