package jobrun

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// submodules fetches them, if there are any. One that cannot be had is a warning in the log: the
// build fails by itself if it needs it.
func (g git) submodules() {
	update := append([]string{"submodule", "update", "--init", "--recursive"}, g.shallow()...)
	paths := g.submodulePaths()
	if len(paths) == 0 || g.in(update...) == 0 {
		return
	}
	for _, path := range paths {
		// Not every server gives out a single commit: what was shallow is fetched whole. What was
		// fetched and not checked out, because another failed, git would take to be as it should.
		if g.in("submodule", "update", "--init", "--recursive", "--force", "--", path) != 0 {
			say("warning: the submodule %s could not be fetched; the build goes on without it", path)
		}
	}
}

// submodulePaths returns where in the source submodules belong.
func (g git) submodulePaths() []string {
	if _, err := os.Lstat(filepath.Join(sourceDir, ".gitmodules")); err != nil {
		return nil // then git knows of none, whatever the tree says
	}
	list, _ := g.output("ls-files", "--stage", "-z")
	var paths []string
	for entry := range strings.SplitSeq(list, "\x00") { // MODE ID STAGE, a tab, PATH: git-ls-files(1)
		if about, path, ok := strings.Cut(entry, "\t"); ok && strings.HasPrefix(about, "160000 ") {
			paths = append(paths, path)
		}
	}
	return paths
}

// lfsPointer is the beginning of what stands for a file of Git LFS (its docs/spec.md).
const lfsPointer = "version https://git-lfs.github.com/spec/v1"

// largeFiles fetches what Git LFS keeps elsewhere, where the image has it, and else says what is
// missing.
func (g git) largeFiles() {
	attributes := []string{"grep", "--quiet", "--cached", "-e", "filter=lfs", "--", ":(glob)**/.gitattributes"}
	if g.in(attributes...) != 0 {
		return
	}
	if _, err := exec.LookPath("git-lfs"); err == nil {
		if g.in("lfs", "install", "--local") != 0 || g.in("lfs", "pull") != 0 {
			say("warning: the files of Git LFS could not be fetched; the build sees pointers in their place")
		}
		return
	}
	list, _ := g.output("grep", "--cached", "--files-with-matches", "--null", "-e", "^"+lfsPointer)
	pointers := slices.DeleteFunc(strings.Split(list, "\x00"), func(path string) bool { return path == "" })
	if n := len(pointers); n > 0 {
		say("warning: the job image has no git-lfs, so the build sees a pointer in place of %s, of %d in all", pointers[0], n)
	}
}
