package schemas

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/internal/shellwords"
)

// normalize makes equivalent requests equal.
func (r *Request) normalize() {
	r.Nix.AccessTokens = withPlainHosts(r.Nix.AccessTokens)
	if scpForm().MatchString(r.Git.Repository) {
		r.Git.Repository = withPlainHost(r.Git.Repository, ":")
		return
	}
	u, err := url.Parse(r.Git.Repository)
	if err != nil {
		return
	}
	// The scheme in small letters: git has a program named after it.
	r.Git.Repository = u.Scheme + r.Git.Repository[len(u.Scheme):]
	if rest, ok := strings.CutPrefix(r.Git.Repository, u.Scheme+"://"); ok {
		r.Git.Repository = u.Scheme + "://" + withPlainHost(rest, "/")
	}

	// A user name in an http(s) URL would be visible in arguments and in git's messages.
	if u.User == nil || (u.Scheme != "http" && u.Scheme != "https") {
		return
	}
	if _, hasPassword := u.User.Password(); hasPassword {
		return // checkRepository refuses it
	}
	switch user := u.User.Username(); {
	case isToken(user) && r.Git.GitKey == "": // hosts of git accept a token as the user
		r.Git.GitKey = user
	case r.Git.GitUsername == "":
		r.Git.GitUsername = user
	}
	u.User, u.Host = nil, strings.ToLower(u.Host)
	r.Git.Repository = u.String()
}

// tokenForm matches the tokens of GitHub, GitLab and Gitea.
var tokenForm = lazyregexp.New(`^(gh[a-z]_|github_pat_|gl[a-z]{2,8}-)[A-Za-z0-9_.-]{16,}$|^[0-9a-f]{40}$`)

// isToken reports whether the name of a user is a token.
func isToken(user string) bool { return tokenForm().MatchString(user) }

// withPlainHost returns an address without its scheme with the host in small letters. The host is before end, and after
// the @ of a user. Git and ssh compare it with the hosts of submodules and inputs, and do not ignore the case.
func withPlainHost(address, end string) string {
	host, _, _ := strings.Cut(address, end)
	at := strings.LastIndexByte(host, '@') + 1
	return address[:at] + strings.ToLower(host[at:]) + address[len(host):]
}

// withPlainHosts returns access tokens with their hosts in small letters: Nix compares them with those of inputs, and
// does not ignore the case. A token for a host that is written so already has precedence.
func withPlainHosts(tokens map[string]string) map[string]string {
	if len(tokens) == 0 {
		return tokens
	}
	plain := make(map[string]string, len(tokens))
	for _, at := range slices.Sorted(maps.Keys(tokens)) {
		lower := PlainTokenHost(at)
		if _, is := tokens[lower]; !is || lower == at {
			plain[lower] = tokens[at]
		}
	}
	return plain
}

// A checker checks a job against the rules that a schema cannot express, and adds broken rules to a Refusal.
type checker struct{ refusal *Refusal }

// rule adds a broken rule. The texts have the document's names of properties.
func (c checker) rule(path, why string) {
	format := c.refusal.format
	c.refusal.valueError(format.named(path), format.named(why))
}

// limit adds a broken rule if a value is larger than most. Both are in bytes.
func (c checker) limit(path string, size, most int) {
	if size > most {
		c.rule(path, fmt.Sprintf("is too long: at most %d bytes are allowed", most))
	}
}

// check checks a job against all rules. commands are the programs that a job may run.
func (c checker) check(job *Request, commands []string) {
	c.checkTexts(job)
	c.checkGit(&job.Git)
	c.checkCachix(&job.BuildOptions.Cachix)
	c.checkNix(&job.Nix)
	options := &job.BuildOptions
	c.checkTrust(options)
	if options.MaxJobs != nil && *options.MaxJobs < 1 {
		c.rule("buildOptions.maxJobs", "must be 1 or more")
	}
	if why := checkWords(options.ExtraArgs); why != "" {
		c.rule("buildOptions.extraArgs", why)
	}
	if why := checkCommand(options.Command, commands); why != "" && !c.refusal.isAbout(c.refusal.format.named("buildOptions.command")) {
		c.refusal.add(unknownCommand, c.refusal.format.named("buildOptions.command"), why)
		c.refusal.command = shownCommand(job)
	}
}

// shownCommand returns a job's command for a message, with secrets masked.
func shownCommand(job *Request) string {
	secrets := job.Secrets()
	if length(secrets) > maxSecrets { // too many to mask
		return "…"
	}
	return redact.New(secrets...).String(job.BuildOptions.Command)
}

// length returns the total length of texts in bytes.
func length(texts []string) (n int) {
	for _, text := range texts {
		n += len(text)
	}
	return n
}

// checkCommand returns why a command is refused, or "".
func checkCommand(command string, allowed []string) string {
	words, err := shellwords.Split(command)
	switch {
	case err != nil:
		return err.Error()
	case len(words) > 0 && assignment().MatchString(words[0]):
		return "no shell runs it, so it cannot begin with a variable; its first word must be one of: " + strings.Join(allowed, ", ")
	case len(words) == 0 || !slices.Contains(allowed, words[0]):
		return "its first word must be one of: " + strings.Join(allowed, ", ")
	}
	return checkWords(command)
}

// assignment matches the beginning of a shell command that sets a variable for a program.
var assignment = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*=`)

// checkWords returns what is wrong with a command line: wrong quotes, or a part that needs a shell; or "".
func checkWords(line string) string {
	if _, err := shellwords.Split(line); err != nil {
		return err.Error()
	}
	if operator := shellwords.Operator(line); operator != "" {
		return "no shell runs it, so " + operator + " would be passed on as a word; send a job for each command, or quote it if it is meant as a word"
	}
	return ""
}

// maxText is the largest length of a text in a job, in bytes. Each becomes an environment variable, for which
// Linux allows 128 KiB. The two lists become one variable together. Secrets must be shorter, because masking
// them in the log needs memory of up to a thousand times their length. A private key for ssh has 3 KiB, a
// token 1 KiB.
const (
	maxText   = 120 << 10
	maxList   = maxText / 2
	maxName   = 4 << 10 // for texts that are shown in lists and kept in records
	maxGitKey = 16 << 10
	maxKey    = 8 << 10
	// maxSecrets is the largest total length of the secrets of a refused job whose command is shown.
	maxSecrets = 32 << 10
)

// checkTexts refuses texts that are too long or have control characters. Most values become lines of Nix's
// configuration, where a line end would begin another setting, or arguments of git.
func (c checker) checkTexts(job *Request) {
	git, options, cachix := &job.Git, &job.BuildOptions, &job.BuildOptions.Cachix
	texts := []struct {
		path    string
		longest int
		values  []string
	}{
		{"system", maxName, []string{job.Arch}},
		{"git.repository", maxName, []string{git.Repository}},
		{"git.branch", maxName, []string{git.Branch}},
		{"git.gitUsername", maxName, []string{git.GitUsername}},
		{"buildOptions.substituters", maxList, options.Substituters},
		{"buildOptions.trustedPublicKeys", maxList, options.TrustedPublicKeys},
		{"buildOptions.cachix.target", maxName, []string{cachix.Target}},
		{"buildOptions.cachix.apiKey", maxKey, []string{cachix.APIKey}},
		{"buildOptions.cachix.signingKey", maxKey, []string{cachix.SigningKey}},
	}
	for _, v := range texts {
		c.limit(v.path, len(strings.Join(v.values, " ")), v.longest)
		if slices.ContainsFunc(v.values, func(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }) {
			c.rule(v.path, "must not hold control characters")
		}
	}
	for _, v := range []struct{ path, line string }{
		{"buildOptions.command", options.Command},
		{"buildOptions.extraArgs", options.ExtraArgs},
	} {
		c.limit(v.path, len(v.line), maxText)
		if strings.ContainsFunc(lineEnds.Replace(v.line), unicode.IsControl) {
			c.rule(v.path, "must not hold control characters but line ends and tabs")
		}
	}
	var shown []string
	for _, s := range job.Shown() {
		shown = append(shown, s.Secret)
	}
	if length(shown) > maxGitKey {
		c.rule("buildOptions.command", "holds secrets that are too long to be masked; use "+accessTokensProperty+" or "+netrcProperty)
	}
	// A private key has many lines; no environment variable can hold a NUL.
	c.limit("git.gitKey", len(git.GitKey), maxGitKey)
	if strings.ContainsRune(git.GitKey, 0) {
		c.rule("git.gitKey", "must not hold a NUL character")
	}
}

// lineEnds removes the control characters that a command may contain.
var lineEnds = strings.NewReplacer("\r\n", "", "\n", "", "\t", "")

func (c checker) checkGit(g *Git) {
	if !g.NoClone && g.Repository == "" {
		c.rule("git.repository", "is required when noClone is false")
	}
	if g.RequiresAuth && g.GitKey == "" {
		c.rule("git.gitKey", "is required when requiresAuth is true")
	}
	if why := checkRepository(g.Repository); g.Repository != "" && why != "" {
		c.rule("git.repository", why)
	}
}

// scpForm matches git's short form of an ssh URL. Neither part can begin with -, like an option. Docker's own names of
// hosts have underscores.
var scpForm = lazyregexp.New(`^[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9_][A-Za-z0-9._-]*:[^:].*$`)

// hostName matches a name or address of a host that has no special meaning for a shell, for ssh or in ssh's
// configuration.
var hostName = lazyregexp.New(`^[A-Za-z0-9_:][A-Za-z0-9._:-]*$`)

// checkRepository returns why a repository's address cannot be used, or "".
func checkRepository(repository string) string {
	if scpForm().MatchString(repository) {
		return ""
	}
	u, err := url.Parse(repository)
	if err != nil || !slices.Contains([]string{"https", "http", "ssh", "git"}, u.Scheme) {
		return "must be an https, http, ssh or git URL, or user@host:path"
	}
	if !hostName().MatchString(u.Hostname()) || strings.HasPrefix(u.User.Username(), "-") || strings.Trim(u.Path, "/") == "" {
		return "must name a host and a repository on it"
	}
	if _, hasPassword := u.User.Password(); hasPassword {
		return "must not hold a password; give it as gitKey"
	}
	if strings.ContainsAny(repository, "?#") { // logs and history show the URL, and a query may contain a token
		return "must not hold a query or fragment; give a token as gitKey"
	}
	return ""
}

// cacheName matches the names of caches that cachix and Iglu Cache accept.
var cacheName = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (c checker) checkCachix(cachix *Cachix) {
	if cachix.Push && cachix.Target == "" {
		c.rule("buildOptions.cachix.target", "is required when push is true")
	}
	if cachix.Push && cachix.APIKey == "" {
		c.rule("buildOptions.cachix.apiKey", "is required when push is true")
	}
	if cachix.Target != "" && !isCacheURL(cachix.Target) {
		c.rule("buildOptions.cachix.target",
			"must be an http or https URL that ends in the name of a cache, such as https://cachix.org/NAME, without a user, query or fragment")
	}
}

func isCacheURL(target string) bool {
	u, err := url.Parse(target)
	if err != nil || strings.ContainsAny(target, "?#") || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" ||
		u.User != nil {
		return false
	}
	path := strings.TrimSuffix(u.Path, "/")
	return cacheName().MatchString(path[strings.LastIndex(path, "/")+1:])
}

// checkTrust checks a job's substituters and trusted keys against the formats that Nix reads.
func (c checker) checkTrust(o *BuildOptions) {
	for _, substituter := range o.Substituters {
		if why := CheckSubstituter(substituter); why != "" {
			c.rule("buildOptions.substituters", why)
			break
		}
	}
	for _, key := range o.TrustedPublicKeys {
		if why := CheckPublicKey(key); why != "" {
			c.rule("buildOptions.trustedPublicKeys", why)
			break
		}
	}
}

// substituterSchemes are those of Nix's binary caches and remote stores (help-stores of its
// manual).
var substituterSchemes = []string{"https", "http", "s3", "ssh-ng", "ssh", "file"}

// CheckSubstituter returns why a text cannot be one of Nix's substituters, or "".
func CheckSubstituter(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || !slices.Contains(substituterSchemes, u.Scheme) || u.Host == "" && u.Path == "":
		return "must be URLs such as https://cache.example.com"
	case u.Scheme != "file" && u.Host == "":
		return "must be URLs that name a host"
	case strings.ContainsFunc(text, isNoToken):
		return "must be URLs without white space, control characters or #"
	}
	if _, hasPassword := u.User.Password(); hasPassword {
		return "must not hold a password, which every program of the job could read: a netrc is the place for it"
	}
	return ""
}

// CheckPublicKey returns why a text cannot be a public key in Nix's trusted-public-keys, or "".
func CheckPublicKey(text string) string {
	name, encoded, ok := strings.Cut(text, ":")
	key, err := base64.StdEncoding.DecodeString(encoded)
	switch {
	case !ok || name == "" || strings.ContainsFunc(text, isNoToken) || err != nil:
		return "must be of the form NAME:KEY, where KEY is base64"
	case len(key) == ed25519.PrivateKeySize:
		return "holds a secret key; give its public half"
	case len(key) != ed25519.PublicKeySize:
		return "must be Ed25519 public keys: 32 bytes in base64 after the name"
	}
	return ""
}

// maxTokens is the largest total length of all access tokens with their hosts, and maxNetrc that of a netrc,
// in bytes.
const maxTokens, maxNetrc = maxGitKey, maxGitKey

var tokenHost = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[A-Za-z0-9._~-]+)*$`)

// IsTokenHost reports whether a text is valid as a host, or a part of one, in Nix's access-tokens.
func IsTokenHost(text string) bool { return tokenHost().MatchString(text) }

// PlainTokenHost returns a host, or a part of one, in Nix's access-tokens with the host in small letters: Nix compares it
// with those of inputs, and does not ignore the case.
func PlainTokenHost(text string) string { return withPlainHost(text, "/") }

// checkNix checks credentials against the formats that Nix reads. No message contains a name from accessTokens,
// because somebody may have written the token there.
func (c checker) checkNix(n *Nix) {
	total := 0
	for _, host := range slices.Sorted(maps.Keys(n.AccessTokens)) {
		token := n.AccessTokens[host]
		total += len(host) + len(token)
		if !IsTokenHost(host) {
			c.rule(accessTokensProperty, "must name hosts such as github.com, or parts of them such as gitlab.example.com/group")
		}
		if token == "" || strings.ContainsFunc(token, isNoToken) {
			c.rule(accessTokensProperty, "must hold tokens without white space, control characters or #")
		}
	}
	c.limit(accessTokensProperty, total, maxTokens)
	c.limit(netrcProperty, len(n.Netrc), maxNetrc)
	if strings.ContainsFunc(lineEnds.Replace(n.Netrc), unicode.IsControl) {
		c.rule(netrcProperty, "must not hold control characters but line ends and tabs")
	}
	if _, err := netrcPasswords(n.Netrc); err != nil {
		c.rule(netrcProperty, err.Error())
	}
}

// isNoToken reports whether a character ends a word or begins a comment in nix.conf.
func isNoToken(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) || c == '#' }
