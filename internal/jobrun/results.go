package jobrun

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/push"
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/internal/textcut"
	"iglu.sh/builder/schemas"
)

const (
	// maxResults is how many paths of a job's results are reported.
	maxResults = 256
	// maxInstallable is the length in bytes at which a reported installable is cut: an expression can be long.
	maxInstallable = 500
)

// reportResults reports the results of a command that succeeded, and how to download them from source, which is nil
// unless all are in the cache. pushed is nil if nothing was to be pushed.
func (b *builder) reportResults(printed []string, pushed *schemas.Pushed, source *push.Substituter) {
	argv, err := commandLine(b.job)
	if err != nil {
		return
	}
	e := schemas.ResultsEvent{Results: resultsOf(argv, printed, sourceDir), Pushed: pushed}
	if pushed != nil {
		e.Target = b.job.CacheTarget
	}
	if paths := e.Paths(); source != nil && len(paths) > 0 && pushed != nil {
		e.Get = cachix.GetCommand(source.URL, newTrust(nil, source.Keys).keys, paths)
	}
	if len(e.Results) > 0 || pushed != nil {
		b.reporter.Event(e)
	}
}

// commandLine returns the command of a job, and its extra arguments.
func commandLine(job jobenv.Job) ([]string, error) {
	command, err := shellwords.Split(job.Command)
	if err != nil {
		return nil, err
	}
	extra, err := shellwords.Split(job.ExtraArgs)
	return slices.Concat(command, extra), err
}

// isNix reports whether a program is one of Nix's.
func isNix(program string) bool { return strings.HasPrefix(filepath.Base(program), "nix") }

// resultsOf returns the results of a command: the store paths of the links that it made in dir or, if there
// are no such links, the paths that it printed. Each has its installable, if that is known.
func resultsOf(argv, printed []string, dir string) []schemas.Result {
	names, link := installables(argv)
	groups := linked(dir, link)
	if len(groups) == 0 {
		groups = grouped(printed, len(names))
	}
	left := maxResults
	var results []schemas.Result
	for i, paths := range groups {
		paths = paths[:min(len(paths), left)]
		left -= len(paths)
		r := schemas.Result{Paths: paths}
		if len(groups) == len(names) {
			r.Installable = textcut.Short(oneLine(names[i]), maxInstallable)
		}
		if len(paths) > 0 {
			results = append(results, r)
		}
	}
	return results
}

// grouped returns the printed paths, one group an installable if there are as many paths as installables,
// else in one group. Both are in the same order, and each installable has at least one path.
func grouped(printed []string, installables int) (groups [][]string) {
	if len(printed) == 0 {
		return nil
	}
	if len(printed) != installables {
		return [][]string{printed}
	}
	for _, path := range printed {
		groups = append(groups, []string{path})
	}
	return groups
}

// linked returns the targets of the links that a command has made, grouped by the numbers in their names.
// For the link "result" the names are result, result-man, result-1 and result-1-man; nix-build calls the
// second result-2.
func linked(dir, link string) (groups [][]string) {
	if link == "" {
		return nil
	}
	if !filepath.IsAbs(link) {
		link = filepath.Join(dir, link)
	}
	folder, name := filepath.Split(link)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	form := regexp.MustCompile("^" + regexp.QuoteMeta(name) + `(?:-(\d+))?(?:-[A-Za-z]\w*)?$`)
	byNumber := make(map[int][]string)
	for _, entry := range entries {
		match := form.FindStringSubmatch(entry.Name())
		to, err := os.Readlink(filepath.Join(folder, entry.Name()))
		if match == nil || err != nil || !nixstore.IsPath(to) {
			continue
		}
		number, _ := strconv.Atoi(match[1]) // without one it is the first
		byNumber[number] = append(byNumber[number], to)
	}
	numbers := make([]int, 0, len(byNumber))
	for number := range byNumber {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	for _, number := range numbers {
		groups = append(groups, byNumber[number])
	}
	return groups
}

// installables returns the installables of a command, as written there, and the name of the link that the
// command makes. It returns none if it does not understand the command.
func installables(argv []string) (names []string, link string) {
	if len(argv) == 0 {
		return nil, ""
	}
	old := filepath.Base(argv[0]) == "nix-build"
	if !old && filepath.Base(argv[0]) != "nix" {
		return nil, ""
	}
	link = "result"
	var words []string
	for rest := expanded(argv[1:]); len(rest) > 0; {
		word := rest[0]
		rest = rest[1:]
		if word == "--" {
			words = append(words, rest...)
			break
		}
		if !strings.HasPrefix(word, "-") || word == "-" {
			words = append(words, word)
			continue
		}
		values, known := valuesOf[word]
		switch {
		case word == "--no-link" || word == "--no-out-link":
			link = ""
		case !known && !switches[word] || len(rest) < values:
			return nil, ""
		case (word == "-o" || word == "--out-link") && link != "":
			link = rest[0]
		case old && (word == "-A" || word == "--attr"):
			names = append(names, rest[0])
		}
		rest = rest[values:]
	}
	switch {
	case old:
		return names, link
	case len(words) == 0 || words[0] != "build":
		return nil, ""
	case len(words) == 1:
		return []string{"."}, link
	}
	return words[1:], link
}

// expanded returns arguments with compound options expanded, as Nix does (Args::parseCmdline in args.cc): -Lk is -L -k, and
// -j4 is -j 4.
func expanded(args []string) []string {
	var all []string
	isLetter := func(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
	for i, arg := range args {
		if arg == "--" {
			return append(all, args[i:]...)
		}
		if len(arg) <= 2 || arg[0] != '-' || !isLetter(arg[1]) {
			all = append(all, arg)
			continue
		}
		rest := arg[1:]
		for ; rest != "" && isLetter(rest[0]); rest = rest[1:] {
			all = append(all, "-"+rest[:1])
		}
		if rest != "" {
			all = append(all, rest)
		}
	}
	return all
}

// valuesOf has the options of 'nix build' and nix-build that have values, and how many. switches has the
// options without values: https://nix.dev/manual/nix/latest/command-ref/new-cli/nix3-build.html,
// .../nix-build.html.
var valuesOf = map[string]int{
	"-o": 1, "--out-link": 1, "--profile": 1, "--expr": 1, "-E": 1, "-f": 1, "--file": 1, "-A": 1, "--attr": 1,
	"-I": 1, "--include": 1, "--arg": 2, "--argstr": 2, "--option": 2, "--override-input": 2, "--override-flake": 2,
	"--inputs-from": 1, "--update-input": 1, "--reference-lock-file": 1, "--output-lock-file": 1, "--eval-store": 1, "--store": 1,
	"-j": 1, "--max-jobs": 1, "--cores": 1, "--log-format": 1, "--extra-experimental-features": 1, "--experimental-features": 1,
	"--system": 1, "--builders": 1, "--timeout": 1, "--max-silent-time": 1, "--substituters": 1, "--extra-substituters": 1,
	"--trusted-public-keys": 1, "--extra-trusted-public-keys": 1,
}

var switches = map[string]bool{
	"-L": true, "--print-build-logs": true, "--print-out-paths": true, "--json": true, "--rebuild": true, "--dry-run": true,
	"--impure": true, "--no-link": true, "--no-out-link": true, "--no-build-output": true, "-Q": true, "-k": true, "--keep-going": true,
	"-K": true, "--keep-failed": true, "--refresh": true, "--offline": true, "--fallback": true, "--accept-flake-config": true,
	"--no-update-lock-file": true, "--no-write-lock-file": true, "--recreate-lock-file": true, "--commit-lock-file": true,
	"--no-registries": true, "--show-trace": true, "-v": true, "--verbose": true, "--debug": true, "--quiet": true, "--repair": true,
	"--no-eval-cache": true, "--no-use-registries": true,
}
