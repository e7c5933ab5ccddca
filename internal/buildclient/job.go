package buildclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
)

// The variables that hold secrets of a job that is given by flags. The names are those that
// the job's container and the ecosystem give them.
const (
	EnvGitKey     = "IGLU_GIT_KEY"
	EnvAPIKey     = "CACHIX_AUTH_TOKEN"
	EnvSigningKey = "CACHIX_SIGNING_KEY"
)

// defaultCommand is what a job with a repository and no command runs: it builds the default
// package of a flake, shows the logs and prints the results' paths.
const defaultCommand = "nix build --print-build-logs --print-out-paths"

// JobFlags are a job as a command line gives it. Secrets are no flags: whoever is on the
// machine can read the command lines of others.
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

	flags *pflag.FlagSet
}

// Register adds the flags to a command's.
func (j *JobFlags) Register(flags *pflag.FlagSet) {
	j.flags = pflag.NewFlagSet("", pflag.ContinueOnError)
	f := j.flags
	f.SortFlags = false
	f.StringVar(&j.repository, "repo", "", "`URL` of the git repository to build")
	f.StringVar(&j.branch, "branch", "", "`branch` or tag of it (default the repository's own)")
	f.BoolVar(&j.noClone, "no-clone", false, "clone nothing: the command names its source; so without --repo")
	f.StringVar(&j.gitUser, "git-user", "", "`name` that the git key belongs to (default git)")
	f.StringVar(&j.gitKeyFile, "git-key-file", "", "`file` with the password, token or private key for the repository (default what "+EnvGitKey+" holds)")
	f.StringVar(&j.command, "command", "", "`program` and its arguments, quoted as for a shell (default with --repo \""+defaultCommand+"\")")
	f.StringArrayVar(&j.args, "arg", nil, "one more `argument` of the command; may be given again")
	f.IntVar(&j.cores, "cores", 0, "`number` of CPUs that one build may use: Nix's cores")
	f.IntVar(&j.maxJobs, "max-jobs", 0, "`number` of builds at once: Nix's max-jobs")
	f.BoolVar(&j.keepGoing, "keep-going", false, "build what can be built after a failure")
	f.StringArrayVar(&j.substituters, "substituter", nil, "`URL` of a cache to take results from; may be given again")
	f.StringArrayVar(&j.trustedKeys, "trusted-public-key", nil, "public `key` of such a cache; may be given again")
	f.StringVar(&j.pushTo, "push-to", "", "`URL` of the cache that the results go to")
	f.StringVar(&j.apiKeyFile, "api-key-file", "", "`file` with the cache's token (default what "+EnvAPIKey+" holds)")
	f.StringVar(&j.signingKeyFile, "signing-key-file", "", "`file` with the key that signs the results (default what "+EnvSigningKey+" holds)")
	f.StringArrayVar(&j.accessTokenFiles, "access-token-file", nil, "`host=file` with the token that a host of flake inputs takes, as github.com=token; may be given again")
	f.StringVar(&j.netrcFile, "netrc-file", "", "`file` in the form of netrc with users and passwords for other hosts")
	f.BoolVar(&j.colors, "colors", false, "keep the colours of Nix and of builders also where the log is not shown on a terminal")
	flags.AddFlagSet(f)
}

// Given reports whether a flag of a job is given.
func (j *JobFlags) Given() bool {
	given := false
	j.flags.VisitAll(func(f *pflag.Flag) { given = given || f.Changed })
	return given
}

// Job returns the job as it is sent. Its secrets come from the files that flags name, or from
// the environment.
func (j *JobFlags) Job() ([]byte, error) {
	request := schemas.Request{
		Colors: j.colors,
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
	case options.Command == "" && request.Git.NoClone:
		return nil, errors.New("there is nothing to build\nhint: name a repository with --repo, or a command with --command")
	case options.Command == "":
		options.Command = defaultCommand
	}
	var err error
	if request.Git.GitKey, err = secret("git-key-file", j.gitKeyFile, EnvGitKey); err != nil {
		return nil, err
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
			return errors.New("--access-token-file must be of the form HOST=FILE, such as github.com=token\nhint: the token itself stands in the file")
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
			return errors.New("a key for a cache is of no use without the cache\nhint: name it with --push-to")
		}
		return nil
	}
	c.Push, c.Target = true, j.pushTo
	if c.APIKey, err = secret("api-key-file", j.apiKeyFile, EnvAPIKey); err != nil {
		return err
	}
	if c.APIKey == "" {
		return errors.New("the cache's token is missing\nhint: put it into " + EnvAPIKey + ", or name a file that holds it with --api-key-file")
	}
	c.SigningKey, err = secret("signing-key-file", j.signingKeyFile, EnvSigningKey)
	return err
}

// secret returns what a file holds, without the line end in which it ends, or else what a
// variable does.
func secret(flag, file, variable string) (string, error) {
	if file == "" {
		return os.Getenv(variable), nil // "" of no variable
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	value := strings.TrimRight(string(text), "\r\n")
	if value == "" {
		return "", fmt.Errorf("--%s: %s is empty", flag, file)
	}
	return value, nil
}

// integer returns the number that a flag gives, or nil if it is not given.
func (j *JobFlags) integer(flag string, n int) *schemas.Integer {
	if !j.flags.Changed(flag) {
		return nil
	}
	w := schemas.Integer(n)
	return &w
}
