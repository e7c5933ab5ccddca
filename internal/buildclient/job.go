package buildclient

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
)

// The environment variables with the secrets of a job that flags describe. Their names are those that the
// job's container and Cachix's own client use.
const (
	EnvGitKey     = "IGLU_GIT_KEY"
	EnvAPIKey     = "CACHIX_AUTH_TOKEN"
	EnvSigningKey = "CACHIX_SIGNING_KEY"
)

// defaultCommand is what a job with a repository and no command runs: it builds the default
// package of a flake, shows the logs and prints the results' paths.
const defaultCommand = "nix build --print-build-logs --print-out-paths"

// JobFlags are the flags that describe a job. Secrets are not flags, because other users of the machine
// can read command lines.
type JobFlags struct {
	repository, branch, gitUser string
	noClone                     bool
	command                     string
	args                        []string
	cores, maxJobs              int
	keepGoing                   bool
	substituters, trustedKeys   []string
	pushTo                      string

	gitKeyFile, apiKeyFile, signingKeyFile string
	accessTokenFiles                       []string // HOST=FILE
	netrcFile                              string
	colors                                 bool
	system                                 string

	flags *pflag.FlagSet
}

// Register adds the job's flags to a command's flags.
func (j *JobFlags) Register(flags *pflag.FlagSet) {
	j.flags = pflag.NewFlagSet("", pflag.ContinueOnError)
	f := j.flags
	f.SortFlags = false
	f.StringVar(&j.repository, "repo", "", "`URL` of the git repository to build")
	f.StringVar(&j.branch, "branch", "", "`BRANCH` or tag to build (default the repository's default branch)")
	f.BoolVar(&j.noClone, "no-clone", false, "clone no repository: the command says what to build; this is the default without --repo")
	f.StringVar(&j.gitUser, "git-user", "", "user `NAME` for the git key (default git)")
	f.StringVar(&j.gitKeyFile, "git-key-file", "", "`FILE` with the password, token or private key for the repository (default the value of "+EnvGitKey+")")
	f.StringVar(&j.command, "command", "", "`COMMAND` with its arguments, quoted as for a shell (default with --repo \""+defaultCommand+"\")")
	f.StringArrayVar(&j.args, "arg", nil, "one more `ARGUMENT` of the command; may be repeated")
	f.StringVar(&j.system, "system", "", "`NAME` of the system that the job runs as, such as aarch64-linux (default that of the builder)")
	f.IntVar(&j.cores, "cores", 0, "`COUNT` of CPUs that one build may use: Nix's setting cores")
	f.IntVar(&j.maxJobs, "max-jobs", 0, "`COUNT` of builds at once: Nix's setting max-jobs")
	f.BoolVar(&j.keepGoing, "keep-going", false, "after a failure, build everything that does not depend on it")
	f.StringArrayVar(&j.substituters, "substituter", nil, "`URL` of a cache to download results from; may be repeated")
	f.StringArrayVar(&j.trustedKeys, "trusted-public-key", nil, "public `KEY` of such a cache; may be repeated")
	f.StringVar(&j.pushTo, "push-to", "", "`URL` of the cache to push the results to")
	f.StringVar(&j.apiKeyFile, "api-key-file", "", "`FILE` with the cache's token (default the value of "+EnvAPIKey+")")
	f.StringVar(&j.signingKeyFile, "signing-key-file", "", "`FILE` with the key that signs the results (default the value of "+EnvSigningKey+")")
	f.StringArrayVar(&j.accessTokenFiles, "access-token-file", nil, "`HOST=FILE`: host of flake inputs and file with a token for it, such as github.com=token; may be repeated")
	f.StringVar(&j.netrcFile, "netrc-file", "", "`FILE` in the format of netrc with users and passwords for other hosts")
	f.BoolVar(&j.colors, "colors", false, "keep the colours of Nix and of builders even if the log is not shown on a terminal")
	flags.AddFlagSet(f)
}

// Given reports whether one of the job's flags is set.
func (j *JobFlags) Given() bool {
	given := false
	j.flags.VisitAll(func(f *pflag.Flag) { given = given || f.Changed })
	return given
}

// Job returns the JSON message that describes the job. Secrets are read from the files that flags name, or
// from the environment.
func (j *JobFlags) Job() ([]byte, error) {
	request := schemas.Request{
		Colors: j.colors, Arch: j.system,
		Git: schemas.Git{
			Repository:  j.repository,
			Branch:      j.branch,
			GitUsername: j.gitUser,
			NoClone:     j.noClone || j.repository == "",
		},
		BuildOptions: schemas.BuildOptions{
			Command:           j.command,
			ExtraArgs:         shellwords.Join(j.args),
			Cores:             j.integer("cores", j.cores),
			MaxJobs:           j.integer("max-jobs", j.maxJobs),
			KeepGoing:         j.keepGoing,
			Substituters:      j.substituters,
			TrustedPublicKeys: j.trustedKeys,
		},
	}
	options := &request.BuildOptions
	switch {
	case options.Command == "" && j.repository != "" && j.noClone:
		return nil, errors.New("without a clone there is nothing to build\nhint: give a command with --command, or leave out --no-clone")
	case j.repository == "" && j.branch+j.gitUser+j.gitKeyFile != "":
		return nil, errors.New("a branch, a git user or a git key is given without the repository\nhint: give its URL with --repo")
	case options.Command == "" && request.Git.NoClone:
		return nil, errors.New("there is nothing to build\nhint: give a repository with --repo, or a command with --command")
	case options.Command == "":
		options.Command = defaultCommand
	}
	var err error
	if j.repository != "" { // else the key would go to a builder that has no use for it
		if request.Git.GitKey, err = secret("git-key-file", j.gitKeyFile, EnvGitKey); err != nil {
			return nil, err
		}
	}
	request.Git.RequiresAuth = request.Git.GitKey != ""
	if err := j.addTokens(&request.Nix); err != nil {
		return nil, err
	}
	if err := j.addPush(&options.Cachix); err != nil {
		return nil, err
	}
	return json.Marshal(request)
}

func (j *JobFlags) addTokens(n *schemas.Nix) (err error) {
	for _, word := range j.accessTokenFiles {
		host, file, ok := strings.Cut(word, "=")
		if !ok || host == "" || file == "" {
			return errors.New("--access-token-file must be HOST=FILE, such as github.com=token\nhint: put the token into the file")
		}
		if n.AccessTokens == nil {
			n.AccessTokens = make(map[string]string)
		}
		if n.AccessTokens[host], err = secret("access-token-file", file, ""); err != nil {
			return err
		}
	}
	n.Netrc, err = secret("netrc-file", j.netrcFile, "")
	return err
}

func (j *JobFlags) addPush(c *schemas.Cachix) (err error) {
	if j.pushTo == "" {
		if j.apiKeyFile+j.signingKeyFile != "" {
			return errors.New("a key for a cache is given without the cache\nhint: give the cache's URL with --push-to")
		}
		return nil
	}
	c.Push, c.Target = true, j.pushTo
	if c.APIKey, err = secret("api-key-file", j.apiKeyFile, EnvAPIKey); err != nil {
		return err
	}
	if c.APIKey == "" {
		return errors.New("the cache's token is missing\nhint: put it into " + EnvAPIKey + ", or into a file that --api-key-file names")
	}
	c.SigningKey, err = secret("signing-key-file", j.signingKeyFile, EnvSigningKey)
	return err
}

// secret returns the content of a file without its last line end. Without a file, it returns the value of an
// environment variable, which can have a line end too: many tools make it of a file.
func secret(flag, file, variable string) (string, error) {
	name, value := variable, os.Getenv(variable) // "" if there is no variable
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("--%s: %w", flag, err)
		}
		name, value = "--"+flag+": "+file, string(WithoutMark(text))
	}
	value = strings.TrimRight(value, "\r\n")
	switch {
	case value == "" && file != "":
		return "", fmt.Errorf("%s is empty", name)
	case !utf8.ValidString(value) || strings.ContainsRune(value, 0): // JSON could not have it, or it is UTF-16
		return "", fmt.Errorf("%s is not UTF-8 text", name)
	}
	return value, nil
}

// WithoutMark returns a text without the byte order mark that editors of Windows write before UTF-8.
func WithoutMark(text []byte) []byte { return bytes.TrimPrefix(text, []byte("\ufeff")) }

// integer returns the value of a flag, or nil if the flag is not set.
func (j *JobFlags) integer(flag string, n int) *schemas.Integer {
	if !j.flags.Changed(flag) {
		return nil
	}
	w := schemas.Integer(n)
	return &w
}
