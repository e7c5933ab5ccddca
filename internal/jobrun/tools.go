package jobrun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	"iglu.sh/builder/internal/jobenv"
)

// This file is about the job image's programs that every job needs. They are in the Nix
// store, where a job can remove them: the next job of that store would not have them.

var tools = []string{"nix", "git"}

// rememberTools writes the image's programs down in a store that outlives the job, if this
// is the store's first job. Not every image has all of them.
func rememberTools() {
	if !outlives() {
		return
	}
	found := slices.DeleteFunc(slices.Clone(tools), func(tool string) bool {
		_, err := exec.LookPath(tool)
		return err != nil
	})
	file, err := os.OpenFile(jobenv.StoreTools, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return
	}
	if err == nil {
		_, err = fmt.Fprintln(file, strings.Join(found, " "))
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		say("cannot note which programs this store has: %v", err)
	}
}

// lostTool returns one of the programs that the store's first job had and that do not run
// any more, or "".
func lostTool(children *children, environ []string) string {
	text, err := os.ReadFile(jobenv.StoreTools)
	if err != nil {
		return "" // no job has begun in this store
	}
	for _, tool := range strings.Fields(string(text)) {
		if !slices.Contains(tools, tool) {
			continue // the file is the jobs' own to change
		}
		if _, err := exec.LookPath(tool); err != nil {
			return tool
		}
		if _, code := outputOf(children, []string{tool, "--version"}, environ); code != 0 && !children.isTerminating() {
			return tool
		}
	}
	return ""
}
