package buildclient

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

const (
	successColor = "\x1b[1;32m" // bold green
	failureColor = "\x1b[1;31m" // bold red
	labelColor   = "\x1b[2m"    // faint
)

// A push is the cache that a job pushes to.
type push struct {
	target    string // its URL; empty: nothing is pushed
	publicKey string // NAME:BASE64, for trusted-public-keys; empty if the job does not sign
}

// pushOf returns a job's cache.
func pushOf(job []byte) push {
	request, ok := schemas.ReadRequest(job)
	if !ok || !request.BuildOptions.Cachix.Push {
		return push{}
	}
	c := request.BuildOptions.Cachix
	return push{target: termtext.Visible(c.Target), publicKey: cachix.TrustedKey(c.Target, c.SigningKey)}
}

// keys returns the key that Nix needs to trust the cache, if there is one.
func (p push) keys() []string {
	if p.publicKey == "" {
		return nil
	}
	return []string{p.publicKey}
}

// appendSummary appends the summary of a job that has ended.
func (s *screen) appendSummary(dst []byte, last *schemas.Response) []byte {
	for _, failed := range s.progress.failed {
		dst = s.appendFailed(dst, failed)
	}
	verdict := s.progress.verdict
	if verdict == nil { // the builder does not send one
		verdict = &schemas.VerdictEvent{Seconds: s.now().Sub(s.progress.begun).Seconds()}
	}
	dst = append(dst, '\n')
	dst = append(dst, s.title(last, verdict)...)
	dst = append(dst, '\n')
	for _, row := range s.rows(verdict, last.JobStatus == schemas.Success) {
		dst = append(dst, s.colored(labelColor, fmt.Sprintf("  %-8s", row[0]))...)
		dst = append(dst, row[1]...)
		dst = append(dst, '\n')
	}
	return dst
}

// title returns the line with the result of the job.
func (s *screen) title(last *schemas.Response, verdict *schemas.VerdictEvent) string {
	took := seconds(verdict.Seconds)
	switch {
	case last.JobStatus == schemas.Success:
		return s.colored(successColor, "Built in "+took)
	case last.BuildExitCode == nil:
		return s.colored(failureColor, "Failed after "+took+": ") + sentences(last)
	case last.Msg == "":
		return s.colored(failureColor, fmt.Sprintf("Failed with exit code %d after %s", *last.BuildExitCode, took))
	}
	return s.colored(failureColor, fmt.Sprintf("Failed with exit code %d after %s: ", *last.BuildExitCode, took)) + termtext.Visible(last.Msg)
}

// appendFailed appends a failed derivation and the last lines of its log.
func (s *screen) appendFailed(dst []byte, failed schemas.DerivationEvent) []byte {
	dst = append(dst, '\n')
	what := nameOf(failed.Derivation) + " failed"
	if failed.Phase != "" {
		what += " in " + termtext.Visible(failed.Phase)
	}
	if len(failed.Log) > 0 {
		what += "; its last lines:"
	}
	dst = append(append(dst, s.colored(failureColor, what)...), '\n')
	for _, line := range failed.Log {
		dst = append(dst, "  "...)
		dst = append(termtext.AppendLine(dst, []byte(line), s.color), '\n')
	}
	if all := logCommand(s.builder, s.progress.job, failed.Derivation); all != "" {
		dst = append(dst, s.colored(labelColor, "  all of them: ")...)
		dst = append(append(dst, all...), '\n')
	}
	return dst
}

// rows returns the other lines of the summary, each with a label.
func (s *screen) rows(verdict *schemas.VerdictEvent, succeeded bool) (rows [][2]string) {
	add := func(label, text string) {
		if text != "" {
			rows = append(rows, [2]string{label, text})
		}
	}
	var phases []string
	for _, p := range verdict.Phases {
		phases = append(phases, termtext.Visible(string(p.Phase))+" "+seconds(p.Seconds))
	}
	add("phases", strings.Join(phases, ", "))
	if verdict.PeakMemory > 0 {
		add("memory", size(verdict.PeakMemory)+" at most")
	}
	if verdict.CPUSeconds > 0 {
		add("CPU", seconds(verdict.CPUSeconds))
	}
	add("node", termtext.Visible(s.progress.node))
	add("commit", termtext.Visible(verdict.Commit))
	var results schemas.ResultsEvent // empty if the builder does not send them
	if s.progress.results != nil {
		results = *s.progress.results
	}
	if verdict.Pushed != nil {
		pushed := paths(verdict.Pushed.Paths) + ", " + size(verdict.Pushed.Bytes)
		if target := cmp.Or(s.target.target, termtext.Visible(results.Target)); target != "" { // else a watched job failed
			pushed += ", to " + target
		}
		add("pushed", pushed)
	}
	if !succeeded {
		return rows
	}
	for _, r := range results.Results {
		for _, path := range r.Paths {
			add("result", strings.TrimSpace(termtext.Visible(path+" "+r.Installable)))
		}
	}
	switch {
	case results.Get != "":
		add("get it", termtext.Visible(results.Get))
	case s.target.target == "" || s.progress.results != nil: // nothing is pushed, or the builder knows no results
	case len(s.results) > 0:
		add("get it", cachix.GetCommand(s.target.target, s.target.keys(), s.results))
	default:
		add("get it", "from the substituter "+s.target.target+s.trust())
	}
	return rows
}

// trust returns the part of a sentence with the key that Nix needs to trust the cache.
func (s *screen) trust() string {
	if s.target.publicKey == "" {
		return ""
	}
	return ", whose key is " + s.target.publicKey
}

// paths returns a number of paths in words.
func paths(n int64) string {
	if n == 1 {
		return "1 path"
	}
	return fmt.Sprintf("%d paths", n)
}

// seconds returns a time such as 0.4s, 12.3s or 1m05s.
func seconds(s float64) string {
	if s < 60 {
		return fmt.Sprintf("%.1fs", s)
	}
	return duration(time.Duration(s * float64(time.Second)))
}
