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

// normalize brings equal requests to one form.
func (r *Request) normalize() {
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
		return // checkRepository refuses it
	}
	if r.Git.GitUsername == "" {
		r.Git.GitUsername = u.User.Username()
	}
	u.User = nil
	r.Git.Repository = u.String()
}

// check holds a job against the rules that a schema cannot express, and notes those that it
// breaks.
func (r *Refusal) check(job *Request, commands []string) {
	r.checkTexts(job)
	r.checkGit(&job.Git)
	r.checkCachix(&job.BuildOptions.Cachix)
	options := &job.BuildOptions
	if options.MaxJobs != nil && *options.MaxJobs < 1 {
		r.rule("buildOptions.maxJobs", "must be 1 or more")
	}
	if why := checkWords(options.ExtraArgs); why != "" {
		r.rule("buildOptions.extraArgs", why)
	}
	if why := checkCommand(options.Command, commands); why != "" && !r.isAbout(r.form.named("buildOptions.command")) {
		r.add(unknownCommand, r.form.named("buildOptions.command"), why)
		// The message repeats the command, in which anything can stand.
		r.command = redact.New(job.Secrets()...).String(options.Command)
	}
}

// checkCommand returns why a command cannot be run, or "".
func checkCommand(command string, allowed []string) string {
	words, err := shellwords.Split(command)
	switch {
	case err != nil:
		return err.Error()
	case len(words) > 0 && assignment.MatchString(words[0]):
		return "no shell runs it, so it cannot begin with a variable; its first word must be one of: " + strings.Join(allowed, ", ")
	case len(words) == 0 || !slices.Contains(allowed, words[0]):
		return "its first word must be one of: " + strings.Join(allowed, ", ")
	}
	return checkWords(command)
}

// assignment is how a shell's command begins that sets a variable for a program.
var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// checkWords returns what is in a line of words that only a shell would understand, or "".
func checkWords(line string) string {
	if _, err := shellwords.Split(line); err != nil {
		return err.Error()
	}
	if operator := shellwords.Operator(line); operator != "" {
		return "no shell runs it, so " + operator + " would be passed on as a word; send a job for each command, or quote it if it is meant as a word"
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
func (r *Refusal) checkTexts(job *Request) {
	git, options, cachix := &job.Git, &job.BuildOptions, &job.BuildOptions.Cachix
	texts := []struct {
		path    string
		longest int
		values  []string
	}{
		{"git.repository", maxText, []string{git.Repository}},
		{"git.branch", maxText, []string{git.Branch}},
		{"git.gitUsername", maxText, []string{git.GitUsername}},
		{"buildOptions.substituters", maxList, options.Substituters},
		{"buildOptions.trustedPublicKeys", maxList, options.TrustedPublicKeys},
		{"buildOptions.cachix.target", maxText, []string{cachix.Target}},
		{"buildOptions.cachix.apiKey", maxKey, []string{cachix.APIKey}},
		{"buildOptions.cachix.signingKey", maxKey, []string{cachix.SigningKey}},
	}
	for _, v := range texts {
		if len(strings.Join(v.values, " ")) > v.longest {
			r.rule(v.path, "is too long")
		}
		if slices.ContainsFunc(v.values, func(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }) {
			r.rule(v.path, "must not hold control characters")
		}
	}
	for path, line := range map[string]string{"buildOptions.extraArgs": options.ExtraArgs, "buildOptions.command": options.Command} {
		if len(line) > maxText {
			r.rule(path, "is too long")
		}
		if strings.ContainsFunc(lineEnds.Replace(line), unicode.IsControl) {
			r.rule(path, "must not hold control characters but line ends and tabs")
		}
	}
	// A private key has many lines; no environment variable can hold a NUL.
	if len(git.GitKey) > maxGitKey {
		r.rule("git.gitKey", "is too long")
	}
	if strings.ContainsRune(git.GitKey, 0) {
		r.rule("git.gitKey", "must not hold a NUL character")
	}
}

// lineEnds removes what a command may hold of control characters.
var lineEnds = strings.NewReplacer("\r\n", "", "\n", "", "\t", "")

func (r *Refusal) checkGit(g *Git) {
	if !g.NoClone && g.Repository == "" {
		r.rule("git.repository", "is required when noClone is false")
	}
	if g.RequiresAuth && g.GitKey == "" {
		r.rule("git.gitKey", "is required when requiresAuth is true")
	}
	if why := checkRepository(g.Repository); g.Repository != "" && why != "" {
		r.rule("git.repository", why)
	}
}

// scpForm is git's short form of an ssh URL. Neither part can pass for an option.
var scpForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^:].*$`)

// hostName is a name or address of a host that has no meaning to a shell, to ssh or in
// ssh's configuration.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_:][A-Za-z0-9._:-]*$`)

// checkRepository returns why a repository's address cannot be used, or "".
func checkRepository(repository string) string {
	if scpForm.MatchString(repository) {
		return ""
	}
	u, err := url.Parse(repository)
	if err != nil || !slices.Contains([]string{"https", "http", "ssh", "git"}, u.Scheme) {
		return "must be an https, http, ssh or git URL, or user@host:path"
	}
	if !hostName.MatchString(u.Hostname()) || strings.HasPrefix(u.User.Username(), "-") || strings.Trim(u.Path, "/") == "" {
		return "must name a host and a repository on it"
	}
	if _, hasPassword := u.User.Password(); hasPassword {
		return "must not hold a password; give it as gitKey"
	}
	if strings.ContainsAny(repository, "?#") { // logs and history show it, and some hosts take a token there
		return "must not hold a query or fragment; give a token as gitKey"
	}
	return ""
}

// cacheName is what cachix and Iglu Cache take for the name of a cache.
var cacheName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (r *Refusal) checkCachix(c *Cachix) {
	if c.Push && c.Target == "" {
		r.rule("buildOptions.cachix.target", "is required when push is true")
	}
	if c.Push && c.APIKey == "" {
		r.rule("buildOptions.cachix.apiKey", "is required when push is true")
	}
	if c.Target != "" && !isCacheURL(c.Target) {
		r.rule("buildOptions.cachix.target",
			"must be an http or https URL that ends in the name of a cache, without a user, query or fragment")
	}
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
