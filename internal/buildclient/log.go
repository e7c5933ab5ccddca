package buildclient

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

// A KeptLog is a log that a builder has kept.
type KeptLog struct {
	Job        string // its id
	Derivation string // its name, its hash or its store path; empty: the job's log
	Follow     bool   // until the job, or the build of the derivation, has ended
}

// ShowLog prints the log of a job, or of one of its derivations.
func ShowLog(ctx context.Context, o Options, log KeptLog) error {
	response, err := o.ask(ctx, http.MethodGet, log.url(o.URL), nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return showText(o.Stdout, response.Body, o.NoColor)
}

// url returns the log's URL in a builder's API.
func (l KeptLog) url(builder *url.URL) *url.URL {
	words := []string{url.PathEscape(l.Job)}
	if l.Derivation != "" {
		// Nix prints the whole path.
		words = append(words, "derivations", url.PathEscape(strings.TrimPrefix(l.Derivation, cachix.StoreDir)))
	}
	result := api(builder, schemas.JobsPath).JoinPath(append(words, "log")...)
	if l.Follow {
		result.RawQuery = "follow=1"
	}
	return result
}

// DefaultURL is the builder's URL if none is given.
const DefaultURL = "ws://127.0.0.1:3000" + schemas.BuildPath

// logCommand returns the command that prints a derivation's whole log, or "" if the job's id is unknown.
func logCommand(builder *url.URL, job, derivation string) string {
	if job == "" {
		return ""
	}
	_, name := nixstore.DerivationName(derivation)
	return commandFor(builder, "log", job, name)
}

// commandFor returns a command line of this program for a builder.
func commandFor(builder *url.URL, command string, args ...string) string {
	words := []string{"iglu-builder", command}
	if address := builder.String(); address != DefaultURL {
		words = append(words, "--url", strings.TrimSuffix(address, schemas.BuildPath))
	}
	return termtext.Visible(shellwords.Join(append(words, args...)))
}

// showText copies lines to an output. For a terminal it removes unsafe control characters.
func showText(out io.Writer, text io.Reader, noColor bool) error {
	if !isTerminal(out) {
		if _, err := io.Copy(out, text); err != nil {
			return fmt.Errorf("copy the log: %w", err)
		}
		return nil
	}
	for lines := bufio.NewReaderSize(text, bufferSize); ; {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			shown := append(termtext.AppendLine(nil, bytes.TrimSuffix(line, []byte{'\n'}), !noColor && !isDumb()), '\n')
			if _, err := out.Write(shown); err != nil {
				return printed(err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
	}
}
