package jobrun

import (
	"os"
	"path/filepath"

	"iglu.sh/builder/internal/lazyregexp"
)

// profiles are the folders in which the job image has profiles of Nix.
var profiles = []string{"/nix/var/nix/profiles", "/nix/var/nix/profiles/per-user/root"}

// generation matches the name of a generation of a profile.
var generation = lazyregexp.New(`^(.+)-\d+-link$`)

// mendProfiles makes the links from profiles to their present generations relative, as Nix itself does. In
// nixos/nix they are absolute. Then 'nix-collect-garbage -d' does not recognize the generation in use, and
// removes all generations, and so Nix and git.
func mendProfiles(folders []string) {
	for _, folder := range folders {
		entries, _ := os.ReadDir(folder) // not every image has one
		for _, entry := range entries {
			mendProfile(filepath.Join(folder, entry.Name()))
		}
	}
}

func mendProfile(profile string) {
	target, err := os.Readlink(profile)
	if err != nil || !filepath.IsAbs(target) || filepath.Dir(target) != filepath.Dir(profile) {
		return
	}
	match := generation().FindStringSubmatch(filepath.Base(target))
	if match == nil || match[1] != filepath.Base(profile) {
		return
	}
	replacement := profile + ".new"
	err = os.Symlink(filepath.Base(target), replacement)
	if err == nil {
		err = os.Rename(replacement, profile)
	}
	if err != nil {
		say("cannot repair the profile %s: %v", profile, err)
	}
}
