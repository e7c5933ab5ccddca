package jobrun

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/nixlog"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
)

// A builder runs a job's command.
type builder struct {
	job      jobenv.Job
	runner   runner
	reporter reporter
	version  func() string // returns the version of the image's Nix, or ""
}

// secrets returns a Redactor for the job's secrets.
func (b *builder) secrets() *redact.Redactor {
	return redact.New(secretsOf(b.job)...)
}

// secretsOf returns the secrets of a job.
func secretsOf(job jobenv.Job) []string {
	request := schemas.Request{
		Git: schemas.Git{GitUsername: job.GitUsername, GitKey: job.GitKey},
		BuildOptions: schemas.BuildOptions{
			Command:   job.Command,
			ExtraArgs: job.ExtraArgs,
			Cachix:    schemas.Cachix{APIKey: job.CacheToken, SigningKey: job.SigningKey},
		},
		Nix: schemas.Nix{AccessTokens: jobenv.SplitTokens(job.AccessTokens), Netrc: job.Netrc},
	}
	return request.Secrets()
}

// buildOnly runs the command and pushes nothing.
func (b *builder) buildOnly(out *output) int {
	if argv, err := commandLine(b.job); err != nil || len(argv) == 0 || !isNix(argv[0]) {
		return b.build(os.Stdout) // the output needs no reading
	}
	stdout, err := newTee(out)
	if err != nil {
		sayWhy("", "cannot read what the build prints: %v", err)
		return exitInternal
	}
	code := b.build(stdout.in)
	stdout.close()
	if code == 0 {
		b.reportResults(out.printed(), nil, nil)
	}
	return code
}

// build runs the command in sourceDir, without a shell, and returns its exit code.
func (b *builder) build(stdout *os.File) int {
	argv, err := commandLine(b.job)
	if err != nil || len(argv) == 0 {
		sayWhy("", "the command cannot be split into words: %v", err)
		return exitConfig
	}
	r := b.runner.with(buildProtocols)
	version := b.version()
	if version != "" {
		say("Nix %s", version)
		if isOlder(version, testedNix) {
			say("this Nix is older than %s, the oldest with which this builder is tested: use a newer job image where something fails", testedNix)
		}
		b.reporter.Send(jobwire.Record{Nix: version})
	}
	b.reporter.phase(schemas.Evaluate)
	say("running %s", shellwords.Show(argv))
	why.set("", "") // earlier failures did not end the job
	if hasJSONLog(version, argv[0]) {
		return b.runWithLog(r, argv, stdout)
	}
	return b.runReadingOutput(r, argv, stdout)
}

// runWithLog runs a command, and reads the log for programs that its Nix processes write.
func (b *builder) runWithLog(r runner, argv []string, stdout *os.File) int {
	colors, err := b.newColorer()
	if err != nil {
		sayWhy("", "cannot read what the build prints: %v", err)
		return exitInternal
	}
	nix, err := b.listenToNix(colors)
	if err != nil {
		say("Nix's progress is not shown: %v", err)
		return r.run(argv, sourceDir, stdout, os.Stderr)
	}
	r.environ = nix.setting(r.environ)
	code := colors.run(r, argv, stdout)
	nix.close()
	colors.close()
	b.warnOfIgnored(nix.log)
	explain(nix.log.Failure(), code)
	return code
}

// explain sets the reason why the command has failed, if Nix has said it.
func explain(f nixlog.Failure, code int) {
	switch {
	case code == 0:
	case f.Derivation != "" && f.Text == "":
		why.set(seeLog, nameOf(f.Derivation)+" failed")
	case f.Derivation != "":
		why.set(seeLog, nameOf(f.Derivation)+" failed: "+f.Text)
	case strings.HasPrefix(f.Text, "experimental Nix feature "):
		why.set(daemonFeature, f.Text)
	case f.Text != "":
		why.set("The log has all that Nix says of it.", f.Text)
	}
}

// daemonFeature is the advice if an experimental feature is disabled. Nix's own advice, an option of the command, is not
// enough for a feature that the daemon needs, too.
const daemonFeature = "If the command enables it already, Nix's daemon has it disabled: the operator of the builder can enable it " +
	"(extra-experimental-features in IGLU_NIX_CONF_FILE)."

// seeLog is the advice if a derivation has failed.
const seeLog = "The job's page has its own log, whatever the command prints of it."

func nameOf(derivation string) string {
	_, name := nixstore.DerivationName(derivation)
	return name
}

// runReadingOutput runs a command, and reads what it prints on standard error, which is passed on
// unchanged. Both outputs are passed on in their order, so that the results that Nix prints at the end
// remain at the end.
func (b *builder) runReadingOutput(r runner, argv []string, stdout *os.File) int {
	log := nixlog.New(b.reporter.Event, nixstore.Files{}, sync.OnceValue(b.secrets))
	defer log.Close()
	lines := log.Lines()
	code := runThroughPipes(r, argv, stdout, io.MultiWriter(os.Stderr, lines))
	lines.End(code == 0)
	b.warnOfIgnored(log)
	explain(log.Failure(), code)
	return code
}

// warnOfIgnored prints what to do about settings that Nix has ignored, of the command or of its flake. It
// prints that on standard error, as Nix prints its warning.
func (b *builder) warnOfIgnored(log *nixlog.Log) {
	warn := func(format string, args ...any) { fmt.Fprintf(os.Stderr, sayFormat("warning: "+format), args...) }
	for _, setting := range log.Restricted() {
		advice := "the operator of the builder can set it (IGLU_NIX_CONF_FILE)"
		switch strings.TrimPrefix(setting, "extra-") {
		case "substituters", "trusted-substituters":
			advice = "use buildOptions.substituters"
		case "trusted-public-keys":
			advice = "use buildOptions.trustedPublicKeys"
		}
		warn("Nix ignored the setting %s, because the command's user is not trusted: %s", setting, advice)
	}
	settings := log.Untrusted()
	if b.job.FlakeConfig != "" { // trustOfFlake has applied these, although Nix warns that it ignored them
		settings = slices.DeleteFunc(settings, func(name string) bool { return ofTrust[strings.TrimPrefix(name, "extra-")] })
	}
	if len(settings) > 0 {
		warn("the flake's own settings %s were ignored: use buildOptions.substituters and buildOptions.trustedPublicKeys; "+
			"the operator of the builder can accept what flakes say of these two (IGLU_ACCEPT_FLAKE_CONFIG)", strings.Join(settings, ", "))
	}
}

// ofTrust has the settings that trustOfFlake reads.
var ofTrust = map[string]bool{"substituters": true, "trusted-substituters": true, "trusted-public-keys": true}

// runThroughPipes runs a command with its outputs passed on to writers.
func runThroughPipes(r runner, argv []string, stdout, stderr io.Writer) int {
	errorOutput, err := newTee(stderr)
	if err != nil {
		sayWhy("", "cannot read what the build prints: %v", err)
		return exitInternal
	}
	defer errorOutput.close()
	results, err := newTee(follower{stdout, errorOutput.drain})
	if err != nil {
		sayWhy("", "cannot read what the build prints: %v", err)
		return exitInternal
	}
	defer results.close()
	return r.run(argv, sourceDir, results.in, errorOutput.in)
}
