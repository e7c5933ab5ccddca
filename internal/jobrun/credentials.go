package jobrun

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/schemas"
)

// askpassSocket is the variable with the path of the socket at which the askpass program asks.
const askpassSocket = "IGLU_ASKPASS_SOCKET"

// defaultUser is the user with which git logs in if the job gives none.
const defaultUser = "git"

// credentials gives the job's key to git without writing it to a file. A private key stays in this
// process: ssh uses it through the socket of an ssh agent. A password or token is given to git's askpass
// program. The key is only for the repository's host, so that a flake input on another host cannot get
// it. The job's access tokens are given to git for their own hosts, as Nix does. Both sockets, and the
// file with the access tokens for Nix, are in a folder that only the job's user may enter. Builds run as
// other users.
type credentials struct {
	owner     *user
	user, key string
	origin    *url.URL // the repository, for whose host the key is; nil: there is none
	keyring   agent.Agent
	tokens    string            // for Nix, in the format of its setting access-tokens
	byHost    map[string]string // those for whole hosts

	dir       string
	listeners []net.Listener
	serving   sync.WaitGroup
}

// checkKey is the advice if the key is not of the right kind.
const checkKey = "Check git.gitKey and git.repository."

// newCredentials starts to answer requests for the job's key. If it fails, it says why and returns an
// exit code.
func newCredentials(job jobenv.Job, owner *user) (*credentials, int) {
	c := &credentials{owner: owner, user: job.GitUsername, key: job.GitKey, origin: repositoryURL(job.Repository),
		tokens: job.AccessTokens, byHost: tokensByHost(job.AccessTokens)}
	if c.user == "" {
		c.user = defaultUser
	}
	overSSH := c.origin != nil && c.origin.Scheme == "ssh"
	switch isPrivateKey := strings.Contains(job.GitKey, "PRIVATE KEY-----"); {
	case isPrivateKey && c.origin != nil && !overSSH:
		sayWhy(checkKey, "gitKey is a private key for ssh, but the repository is not reached by ssh")
		return nil, exitConfig
	case isPrivateKey:
		if err := c.loadKey(); err != nil {
			sayWhy(checkKey, "%v", err)
			return nil, exitConfig
		}
	case c.key != "" && overSSH:
		sayWhy(checkKey, "the repository is reached by ssh, but gitKey is not a private key")
		return nil, exitConfig
	}
	if c.key != "" && c.origin == nil {
		say("gitKey is not used: without a repository there is no host to give it to")
		c.key, c.keyring = "", nil
	}
	if err := c.listen(); err != nil {
		sayWhy("", "cannot hand out credentials: %v", err)
		return nil, exitInternal
	}
	return c, 0
}

// tokensByHost returns the access tokens that are for whole hosts, by the host in lower case. It omits
// tokens for a part of a host: git asks for a host only.
func tokensByHost(tokens string) map[string]string {
	byHost := make(map[string]string)
	for host, token := range jobenv.SplitTokens(tokens) {
		if !strings.Contains(host, "/") {
			byHost[strings.ToLower(host)] = token
		}
	}
	return byHost
}

// scpForm is git's short form of an ssh URL.
var scpForm = lazyregexp.New(`^([^@/:]+)@([^:/]+):(.*)$`)

// repositoryURL returns a repository's URL, also for git's short form, or nil.
func repositoryURL(repository string) *url.URL {
	if m := scpForm().FindStringSubmatch(repository); m != nil {
		return &url.URL{Scheme: "ssh", User: url.User(m[1]), Host: m[2], Path: m[3]}
	}
	u, err := url.Parse(repository)
	if err != nil || repository == "" {
		return nil
	}
	return u
}

func (c *credentials) loadKey() error {
	// A key that was copied through an HTML form can have other line ends, or lack the last one.
	pem := strings.TrimSpace(strings.ReplaceAll(c.key, "\r\n", "\n")) + "\n"
	key, err := ssh.ParseRawPrivateKey([]byte(pem))
	if _, ok := err.(*ssh.PassphraseMissingError); ok {
		return fmt.Errorf("gitKey is protected by a passphrase; give a key without one")
	}
	if err != nil {
		// The text of err could contain parts of the key.
		return fmt.Errorf("gitKey looks like a private key but cannot be read as one")
	}
	c.keyring = agent.NewKeyring()
	if err := c.keyring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		return fmt.Errorf("gitKey is of a kind that ssh agents do not know")
	}
	return nil
}

func (c *credentials) path(name string) string { return filepath.Join(c.dir, name) }

func (c *credentials) listen() (err error) {
	if c.dir, err = os.MkdirTemp(secretsFolder, "iglu-"); err != nil {
		return err
	}
	if err := os.WriteFile(c.path("ssh_config"), []byte(c.sshConfig()), 0o600); err != nil {
		return err
	}
	if err := errors.Join(c.owner.own(c.dir), c.owner.own(c.path("ssh_config"))); err != nil {
		return err
	}
	if c.tokens != "" {
		file := c.path("nix.conf")
		if err := errors.Join(os.WriteFile(file, []byte(tokenSettings(c.tokens, readConfOfImage())), 0o600), c.owner.own(file)); err != nil {
			return err
		}
	}
	if c.keyring != nil {
		if err := c.serve(c.path("agent"), func(conn net.Conn) { agent.ServeAgent(c.keyring, conn) }); err != nil {
			return err
		}
	}
	if c.answersGit() {
		return c.serve(c.path("askpass"), c.answer)
	}
	return nil
}

// answersGit reports whether there is a password or a token that git can ask for.
func (c *credentials) answersGit() bool { return c.key != "" && c.keyring == nil || len(c.byHost) > 0 }

func (c *credentials) serve(path string, handle func(net.Conn)) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	c.listeners = append(c.listeners, listener)
	if err := c.owner.own(path); err != nil {
		return err
	}
	c.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	})
	return nil
}

func (c *credentials) close() {
	for _, listener := range c.listeners {
		listener.Close()
	}
	c.serving.Wait()
	os.RemoveAll(c.dir)
}

// plainUser matches a name that needs no quotes in ssh's configuration.
var plainUser = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9._@+-]*$`)

// sshConfig returns a configuration with which ssh uses the agent for the repository's host only.
func (c *credentials) sshConfig() string {
	var config strings.Builder
	if c.keyring != nil {
		fmt.Fprintf(&config, "Host %s\n  IdentityAgent %s\n", c.origin.Hostname(), c.path("agent"))
		if plainUser().MatchString(c.user) { // for URLs without a user
			fmt.Fprintf(&config, "  User %s\n", c.user)
		}
	}
	fmt.Fprintf(&config, "Host *\n  IdentityAgent none\n  BatchMode yes\n  LogLevel ERROR\n  ConnectTimeout 30\n"+
		"  StrictHostKeyChecking accept-new\n  UserKnownHostsFile %s\n", c.path("known_hosts"))
	return config.String()
}

// environ returns the variables that git needs, also when Nix runs it: where to ask for credentials, and
// that there is no terminal.
func (c *credentials) environ() []string {
	environ := []string{"GIT_TERMINAL_PROMPT=0", "GIT_SSH_COMMAND=ssh -F " + c.path("ssh_config")}
	if c.answersGit() {
		environ = append(environ,
			"GIT_ASKPASS="+filepath.Join(jobenv.Mount, jobenv.Askpass), askpassSocket+"="+c.path("askpass"))
	}
	if c.key != "" && c.keyring == nil {
		environ = append(environ, c.insteadOfSSH()...)
	}
	return environ
}

// settings returns the line of nix.conf with which Nix reads the access tokens from a file. So they are
// neither in its environment nor in its arguments.
func (c *credentials) settings() string {
	if c.tokens == "" {
		return ""
	}
	return "include " + c.path("nix.conf") + "\n"
}

// insteadOfSSH returns variables with which git uses http for the repository's host if a submodule or an
// input has an ssh URL: ssh does not accept a password or a token. They are added to the settings for git
// in the job image's environment.
func (c *credentials) insteadOfSSH() []string {
	if c.origin == nil {
		return nil
	}
	key := fmt.Sprintf("url.%s://%s/.insteadOf", c.origin.Scheme, c.origin.Host)
	n, _ := strconv.Atoi(os.Getenv("GIT_CONFIG_COUNT")) // usually not set
	var environ []string
	for _, form := range []string{"git@%s:", "ssh://git@%s/", "ssh://%s/"} {
		environ = append(environ, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", n, key),
			fmt.Sprintf("GIT_CONFIG_VALUE_%d="+form, n, strings.TrimSuffix(c.origin.Host, ":"+c.origin.Port())))
		n++
	}
	return append(environ, fmt.Sprintf("GIT_CONFIG_COUNT=%d", n))
}

// maxQuestion is the length of the longest question that is read, in bytes.
const maxQuestion = 64 << 10

// answer answers one question from git, such as "Password for 'https://git@host': ".
func (c *credentials) answer(conn net.Conn) {
	question, err := bufio.NewReader(io.LimitReader(conn, maxQuestion)).ReadString('\n')
	if err != nil {
		return
	}
	asked, ok := hostIn(question)
	if !ok {
		return
	}
	user, key, ok := c.loginFor(asked)
	switch {
	case ok:
	case c.isOrigin(asked):
		say("git asks for credentials of the repository's host; the job has none for it")
		return
	default:
		say("git asks for credentials of another host than the repository's; it gets none")
		return
	}
	// When git asks for the password, the URL has the user. Otherwise it asks for the user.
	if asked.User == nil {
		fmt.Fprintln(conn, user)
	} else {
		fmt.Fprintln(conn, key)
	}
}

// hostIn returns the URL in a question from git. ok is false if it is not clear which host has asked. Before 2.48.1,
// git does not encode the user's name in it, which is part of the URL of a submodule, for example. That name can have
// a quote, or the end of a host, and then another host follows.
func hostIn(question string) (asked *url.URL, ok bool) {
	first, last := strings.Index(question, "'"), strings.LastIndex(question, "'")
	if first == last {
		return nil, false
	}
	text := question[first+1 : last]
	_, address, _ := strings.Cut(text, "://")
	if end := strings.IndexAny(address, "/?#"); end >= 0 && strings.Contains(address[end:], "@") {
		return nil, false
	}
	asked, err := url.Parse(text)
	return asked, err == nil
}

// isOrigin reports whether a host is the repository's. A server of http may redirect to https on the same host: the key
// is safer there.
func (c *credentials) isOrigin(host *url.URL) bool {
	if c.origin == nil || !strings.EqualFold(host.Hostname(), c.origin.Hostname()) {
		return false
	}
	port, ofOrigin := portOf(host), portOf(c.origin)
	return host.Scheme == c.origin.Scheme && port == ofOrigin ||
		c.origin.Scheme == "http" && ofOrigin == "80" && host.Scheme == "https" && port == "443"
}

// portOf returns a URL's port, or that of its scheme.
func portOf(u *url.URL) string {
	return cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
}

// loginFor returns the user and the password or token with which git logs in at a host.
func (c *credentials) loginFor(host *url.URL) (user, key string, ok bool) {
	if c.isOrigin(host) && c.key != "" && c.keyring == nil {
		return c.user, c.key, true
	}
	token, ok := c.byHost[strings.ToLower(host.Host)]
	if !ok || host.Scheme != "https" { // Nix, too, sends tokens by https only
		return "", "", false
	}
	if strings.HasPrefix(token, "OAuth2:") { // GitLab recognizes an OAuth token by the user "oauth2"
		return "oauth2", schemas.BareToken(token), true
	}
	return defaultUser, schemas.BareToken(token), true
}

// Askpass is the program that git runs to ask a question. It prints the answer and returns 0, or returns
// 1 if there is no answer.
func Askpass(question string) int {
	conn, err := net.Dial("unix", os.Getenv(askpassSocket))
	if err != nil {
		return 1
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, strings.ReplaceAll(question, "\n", " ")); err != nil {
		return 1
	}
	if n, err := io.Copy(os.Stdout, conn); n == 0 || err != nil {
		return 1
	}
	return 0
}
