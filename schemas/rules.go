package schemas

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/internal/shellwords"
)

// spaces turns what separates the lines of a JSON file's long command into spaces.
// A backslash before a line's end is how a shell's command goes on in the next.
var spaces = strings.NewReplacer("\\\r\n", " ", "\\\n", " ", "\r\n", " ", "\n", " ", "\t", " ")

// normalize brings equal requests to one form.
func (r *Request) normalize() {
	r.BuildOptions.Command = spaces.Replace(r.BuildOptions.Command)
	r.BuildOptions.ExtraArgs = spaces.Replace(r.BuildOptions.ExtraArgs)

	u, err := url.Parse(r.Git.Repository)
	if err != nil {
		return
	}
	// Git takes the scheme for the name of one of its programs.
	r.Git.Repository = u.Scheme + r.Git.Repository[len(u.Scheme):]

	// A user name in an http(s) URL would end up in argv and in git's messages.
	if u.User == nil || (u.Scheme != "http" && u.Scheme != "https") {
		return
	}
	if _, hasPassword := u.User.Password(); hasPassword {
		return // refused by check
	}
	if r.Git.GitUsername == "" {
		r.Git.GitUsername = u.User.Username()
	}
	u.User = nil
	r.Git.Repository = u.String()
}

// check holds the request against the rules that a schema cannot express.
func (r *Request) check(commands []string) *Refusal {
	if refusal := r.checkTexts(); refusal != nil {
		return refusal
	}
	if refusal := r.Git.check(); refusal != nil {
		return refusal
	}
	if refusal := r.BuildOptions.Cachix.check(); refusal != nil {
		return refusal
	}
	options := r.BuildOptions
	if options.MaxJobs != nil && *options.MaxJobs < 1 {
		return brokenRule("buildOptions.maxJobs", "must be 1 or more")
	}
	if _, err := shellwords.Split(options.ExtraArgs); err != nil {
		return brokenRule("buildOptions.extraArgs", err.Error())
	}
	if why := checkCommand(options.Command, commands); why != "" {
		// The message repeats the command, in which anything can stand.
		command := redact.New(r.Secrets()...).String(options.Command)
		return &Refusal{kind: unknownCommand, command: command, reason: "buildOptions.command: " + why}
	}
	return nil
}

// checkCommand returns why a command cannot be run, or "".
func checkCommand(command string, allowed []string) string {
	words, err := shellwords.Split(command)
	switch {
	case err != nil:
		return err.Error()
	case len(words) == 0 || !slices.Contains(allowed, words[0]):
		return "its first word must be one of: " + strings.Join(allowed, ", ")
	}
	return ""
}

// maxText is the length in bytes of the longest text that a job may hold: each becomes
// an environment variable, for which Linux allows 128 KiB. The lists become one together.
// Secrets are shorter, because all their forms are looked for in the log, which takes memory
// of up to a thousand times their length: private keys for ssh have 3 KiB, tokens 1 KiB.
const (
	maxText   = 120 << 10
	maxList   = maxText / 2
	maxGitKey = 16 << 10
	maxKey    = 8 << 10
)

// checkTexts refuses what is too long, and control characters: most values become lines
// of Nix's configuration or arguments of git, where a line end would start another
// setting.
func (r *Request) checkTexts() *Refusal {
	git, options, cachix := &r.Git, &r.BuildOptions, &r.BuildOptions.Cachix
	texts := []struct {
		path    string
		longest int
		values  []string
	}{
		{"git.repository", maxText, []string{git.Repository}},
		{"git.branch", maxText, []string{git.Branch}},
		{"git.gitUsername", maxText, []string{git.GitUsername}},
		{"buildOptions.extraArgs", maxText, []string{options.ExtraArgs}},
		{"buildOptions.substituters", maxList, options.Substituters},
		{"buildOptions.trustedPublicKeys", maxList, options.TrustedPublicKeys},
		{"buildOptions.command", maxText, []string{options.Command}},
		{"buildOptions.cachix.target", maxText, []string{cachix.Target}},
		{"buildOptions.cachix.apiKey", maxKey, []string{cachix.APIKey}},
		{"buildOptions.cachix.signingKey", maxKey, []string{cachix.SigningKey}},
	}
	for _, v := range texts {
		if len(strings.Join(v.values, " ")) > v.longest {
			return brokenRule(v.path, "is too long")
		}
		if slices.ContainsFunc(v.values, func(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }) {
			return brokenRule(v.path, "must not hold control characters")
		}
	}
	// A private key has many lines; no environment variable can hold a NUL.
	if len(git.GitKey) > maxGitKey {
		return brokenRule("git.gitKey", "is too long")
	}
	if strings.ContainsRune(git.GitKey, 0) {
		return brokenRule("git.gitKey", "must not hold a NUL character")
	}
	return nil
}

func (g *Git) check() *Refusal {
	switch {
	case !g.NoClone && g.Repository == "":
		return brokenRule("git.repository", "is required when noClone is false")
	case g.RequiresAuth && g.GitKey == "":
		return brokenRule("git.gitKey", "is required when requiresAuth is true")
	case g.Repository != "":
		return checkRepository(g.Repository)
	}
	return nil
}

// scpForm is git's short form of an ssh URL. Neither part can pass for an option.
var scpForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^:].*$`)

// hostName is a name or address of a host that has no meaning to a shell, to ssh or in
// ssh's configuration.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_:][A-Za-z0-9._:-]*$`)

func checkRepository(repository string) *Refusal {
	const path = "git.repository"
	if scpForm.MatchString(repository) {
		return nil
	}
	u, err := url.Parse(repository)
	if err != nil || !slices.Contains([]string{"https", "http", "ssh", "git"}, u.Scheme) {
		return brokenRule(path, "must be an https, http, ssh or git URL, or user@host:path")
	}
	if !hostName.MatchString(u.Hostname()) || strings.HasPrefix(u.User.Username(), "-") || strings.Trim(u.Path, "/") == "" {
		return brokenRule(path, "must name a host and a repository on it")
	}
	if _, hasPassword := u.User.Password(); hasPassword {
		return brokenRule(path, "must not hold a password; give it as gitKey")
	}
	if strings.ContainsAny(repository, "?#") { // logs and history show it, and some hosts take a token there
		return brokenRule(path, "must not hold a query or fragment; give a token as gitKey")
	}
	return nil
}

// cacheName is what cachix and Iglu Cache take for the name of a cache.
var cacheName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (c *Cachix) check() *Refusal {
	switch {
	case c.Push && c.Target == "":
		return brokenRule("buildOptions.cachix.target", "is required when push is true")
	case c.Push && c.APIKey == "":
		return brokenRule("buildOptions.cachix.apiKey", "is required when push is true")
	case c.Target != "" && !isCacheURL(c.Target):
		return brokenRule("buildOptions.cachix.target",
			"must be an http or https URL that ends in the name of a cache, without a user, query or fragment")
	}
	return nil
}

func isCacheURL(target string) bool {
	u, err := url.Parse(target)
	if err != nil || strings.ContainsAny(target, "?#") || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" ||
		u.User != nil {
		return false
	}
	path := strings.TrimSuffix(u.Path, "/")
	return cacheName.MatchString(path[strings.LastIndex(path, "/")+1:])
}
