package jobrun

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// submodules fetches the submodules. One that cannot be fetched is a warning in the log: if the build
// needs it, the build fails.
func (g git) submodules() {
	update := append([]string{"submodule", "update", "--init", "--recursive"}, g.shallow()...)
	paths := g.submodulePaths()
	if len(paths) == 0 || g.in(update...) == 0 {
		return
	}
	for _, sub := range paths {
		// Not every server sends a single commit, so this fetches the whole history. --force is for a
		// submodule that was fetched but not checked out, because another failed: without it, git does
		// not check it out.
		if g.in("submodule", "update", "--init", "--recursive", "--force", "--", sub) != 0 {
			say("warning: the submodule %s could not be fetched; the build goes on without it", sub)
		}
	}
}

// submodulePaths returns the paths of the submodules in the source.
func (g git) submodulePaths() []string {
	if _, err := os.Lstat(filepath.Join(sourceDir, ".gitmodules")); err != nil {
		return nil // without this file git knows no submodules, whatever the tree has
	}
	list, _ := g.output("ls-files", "--stage", "-z")
	var paths []string
	for entry := range strings.SplitSeq(list, "\x00") { // MODE ID STAGE, a tab, PATH: git-ls-files(1)
		if stage, sub, ok := strings.Cut(entry, "\t"); ok && strings.HasPrefix(stage, "160000 ") {
			paths = append(paths, sub)
		}
	}
	return paths
}

// lfsPointer is the beginning of a pointer, which replaces a file of Git LFS in git (its docs/spec.md).
const lfsPointer = "version https://git-lfs.github.com/spec/v1"

// largeFiles fetches the files of Git LFS in the source and its submodules, if the image has git-lfs. Otherwise it says
// what is missing.
func (g git) largeFiles() {
	for _, dir := range append([]string{g.dir}, g.submoduleDirs()...) {
		g.dir = dir
		g.largeFilesHere()
	}
}

// submoduleDirs returns the folders of the submodules that were fetched, and of their submodules.
func (g git) submoduleDirs() []string {
	if len(g.submodulePaths()) == 0 {
		return nil
	}
	list, _ := g.output("submodule", "foreach", "--quiet", "--recursive", `printf '%s\0' "$toplevel/$sm_path"`)
	return slices.DeleteFunc(strings.Split(list, "\x00"), func(dir string) bool { return dir == "" })
}

func (g git) largeFilesHere() {
	attributes := []string{"grep", "--quiet", "--cached", "-e", "filter=lfs", "--", ":(glob)**/.gitattributes"}
	if g.in(attributes...) != 0 {
		return
	}
	where := strings.TrimPrefix(strings.TrimPrefix(g.dir, sourceDir), "/")
	if _, err := exec.LookPath("git-lfs"); err == nil {
		if g.in("lfs", "install", "--local") != 0 || g.in("lfs", "pull") != 0 {
			of := ""
			if where != "" {
				of = " of the submodule " + where
			}
			say("warning: the files of Git LFS%s could not be fetched; the build sees pointers in their place", of)
		}
		return
	}
	list, _ := g.output("grep", "--cached", "--files-with-matches", "--null", "-e", "^"+lfsPointer)
	pointers := slices.DeleteFunc(strings.Split(list, "\x00"), func(path string) bool { return path == "" })
	if n := len(pointers); n > 0 {
		say("warning: the job image has no git-lfs, so the build sees a pointer in place of %s, of %d in all", path.Join(where, pointers[0]), n)
	}
}
