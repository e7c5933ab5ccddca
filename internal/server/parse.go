package server

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/distribution/reference"
	"github.com/docker/go-units"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/orchestrator"
)

// value is a flag whose value parse reads from text.
type value[T any] struct {
	target *T
	text   string
	kind   Kind
	parse  func(string) (T, error)
}

func parsed[T any](target *T, kind Kind, parse func(string) (T, error)) *value[T] {
	return &value[T]{target: target, kind: kind, parse: parse}
}

// choice returns a flag whose value is one of some words.
func choice[T ~string](target *T, words ...T) *value[T] {
	kind := Kind{Type: Word}
	for _, word := range words {
		kind = kind.or(string(word))
	}
	return parsed(target, kind, oneOf(words...))
}

func (v *value[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err != nil {
		return fmt.Errorf("%q %w", text, err)
	}
	*v.target, v.text = parsed, text
	return nil
}

func (v *value[T]) String() string { return v.text }

// Type returns what --help shows after the flag.
func (v *value[T]) Type() string { return v.kind.Placeholder }

func (v *value[T]) Kind() Kind { return v.kind }

func parseAny(text string) (string, error) { return text, nil }

// parseFile refuses an empty name, as of an unset variable in a shell: without its file, a server would take jobs without a
// token or without TLS.
func parseFile(text string) (string, error) {
	if text == "" {
		return "", errors.New("is not a file")
	}
	return text, nil
}

// parseFolder refuses what would be the working folder, or the name of a folder that nobody wants to make.
func parseFolder(text string) (string, error) {
	switch {
	case text == "":
		return "", errors.New("is not a folder")
	case strings.TrimRightFunc(text, unicode.IsSpace) != text:
		return "", errors.New("is not a folder: it ends with a space or a line end")
	}
	return text, nil
}

func parseAddress(text string) (string, error) {
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" { // with an empty port, it would be any
		return "", errors.New("is not an address such as 127.0.0.1:3000 or :3000")
	}
	return text, nil
}

func parseImage(text string) (string, error) {
	if _, err := reference.ParseNormalizedNamed(text); err != nil {
		return "", fmt.Errorf("is not the name of an image: %w", err)
	}
	return text, nil
}

const instanceForm = `[a-zA-Z0-9][a-zA-Z0-9_.-]*`

var instanceName = lazyregexp.New(`^` + instanceForm + `$`)

func parseInstance(text string) (string, error) {
	if !instanceName().MatchString(text) {
		return "", errors.New("is not a name of letters, digits, dots, dashes and underscores")
	}
	return text, nil
}

// oneOf returns a parser that accepts some words.
func oneOf[T ~string](words ...T) func(string) (T, error) {
	return func(text string) (T, error) {
		if !slices.Contains(words, T(text)) {
			return "", fmt.Errorf("is none of %s", strings.Trim(fmt.Sprintf("%q", words), "[]"))
		}
		return T(text), nil
	}
}

func parseYesNo(text string) (bool, error) {
	if text != "yes" && text != "no" {
		return false, errors.New("is neither yes nor no")
	}
	return text == "yes", nil
}

func parseWords(text string) ([]string, error) {
	words := strings.Split(text, ",")
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	isWrong := func(word string) bool {
		return word == "" || strings.ContainsFunc(word, unicode.IsSpace) || strings.ContainsAny(word, `"'`)
	}
	if slices.ContainsFunc(words, isWrong) {
		return nil, errors.New("is not a list of programs such as nix,nix-build")
	}
	return words, nil
}

var originForm = lazyregexp.New(`^https?://[^/?#@,\s]+$`)

func parseOrigins(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	origins, err := parseWords(text)
	if err != nil || slices.ContainsFunc(origins, func(origin string) bool { return !originForm().MatchString(origin) }) {
		return nil, errors.New("is not a list of origins such as https://example.com,http://localhost:8080")
	}
	return origins, nil
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, errors.New("is not a time such as 30s or 5m")
	}
	return d, nil
}

// durationOr returns a flag whose value is a time, or a word for 0.
func durationOr(target *time.Duration, word string) *value[time.Duration] {
	return parsed(target, duration.or(word), func(text string) (time.Duration, error) {
		if text == word {
			return 0, nil
		}
		d, err := parseDuration(text)
		if err != nil {
			err = fmt.Errorf("%w, nor %s", err, word)
		}
		return d, err
	})
}

// parsePublicURL returns a URL without a slash at its end.
func parsePublicURL(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.ContainsAny(text, "?# ") {
		return "", errors.New("is not a URL such as https://builder.example.com")
	}
	return strings.TrimRight(text, "/"), nil
}

// maxJobs is more than a machine can run at once: each job needs a container and a connection.
const maxJobs = 256

// maxQueued is longer than any useful queue. Each waiting job needs a connection and a log.
const maxQueued = 1000

const maxUploads = 64

// whole returns a flag whose value is a whole number from least to most.
func whole(target *int, least, most int) *value[int] {
	return parsed(target, number(int64(least), int64(most)), func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("is not a number from %d to %d", least, most)
		}
		return n, nil
	})
}

func parseBytes(text string) (int64, error) {
	n, err := units.RAMInBytes(text)
	if err != nil || n <= 0 {
		return 0, errors.New("is not a size such as 1048576 or 1MiB")
	}
	return n, nil
}

func parseMemory(text string) (orchestrator.Amount, error) {
	return parseAmount(text, "is not a size of at least 64MiB such as 8GiB, nor a share such as 75%", func(text string) (float64, error) {
		n, err := parseBytes(text)
		if n < orchestrator.LeastMemory {
			err = errors.New("too little")
		}
		return float64(n), err
	})
}

func parseCPUs(text string) (orchestrator.Amount, error) {
	return parseAmount(text, "is not a number of CPUs such as 1.5, nor a share such as 75%", func(text string) (float64, error) {
		n, err := strconv.ParseFloat(text, 64)
		if !(n >= orchestrator.LeastCPUs && n <= mostCPUs) {
			err = errors.New("too little or too much")
		}
		return n, err
	})
}

// No machine has mostCPUs.
const mostCPUs = 1e6

var shareForm = lazyregexp.New(`^(100|[1-9]\d?)%$`)

// parseAmount reads an amount: a percentage, or a number that parseFixed reads. Every error is the sentence,
// which says what is valid.
func parseAmount(text, sentence string, parseFixed func(string) (float64, error)) (a orchestrator.Amount, err error) {
	if m := shareForm().FindStringSubmatch(text); m != nil {
		a.Share, err = strconv.ParseFloat(m[1], 64)
		a.Share /= 100
	} else {
		a.Fixed, err = parseFixed(text)
	}
	if err != nil {
		err = errors.New(sentence)
	}
	return a, err
}

// leastPIDs is how many processes are needed to fetch a source and run Nix.
const leastPIDs = 64

func parsePIDs(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < leastPIDs {
		return 0, fmt.Errorf("is not a number of at least %d", leastPIDs)
	}
	return n, nil
}

// LeastLogBytes is the smallest --max-log-bytes. It has room for the end of a log that is cut.
const LeastLogBytes = 256 << 10

func parseLogBytes(text string) (int64, error) {
	n, err := parseBytes(text)
	if err == nil && n < LeastLogBytes {
		err = errors.New("is less than 256KiB")
	}
	return n, err
}

var keepForm = lazyregexp.New(`^(?:(\d{1,9})|(\d{1,5})d|(\d{1,9}),(\d{1,5})d)$`)

func parseKeep(text string) (keep joblog.Keep, err error) {
	m := keepForm().FindStringSubmatch(text)
	if m == nil {
		return keep, errors.New("is not a number of jobs such as 20, or of days such as 7d, or both: 20,7d")
	}
	keep.Jobs = math.MaxInt
	if jobs := m[1] + m[3]; jobs != "" {
		keep.Jobs, _ = strconv.Atoi(jobs)
	}
	if text := m[2] + m[4]; text != "" {
		days, _ := strconv.Atoi(text)
		keep.Age = time.Duration(days) * 24 * time.Hour
		if days == 0 { // an age of 0 would be no limit
			keep.Jobs = 0
		}
	}
	return keep, nil
}

// parseGitDepth returns 0 for all.
func parseGitDepth(text string) (int, error) {
	if text == "all" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return 0, errors.New("is neither all nor a number of at least 1")
	}
	return int(n), nil
}

// Sizes of parts in bytes: S3 accepts no smaller ones, and every upload keeps one in memory.
const (
	leastPartSize = 5 << 20
	maxPartSize   = 1 << 30
)

func parsePartSize(text string) (int, error) {
	n, err := parseBytes(text)
	if err == nil && (n < leastPartSize || n > maxPartSize) {
		err = errors.New("is not a size from 5MiB to 1GiB")
	}
	return int(n), err
}

func parseLogFormat(text string) (string, error) {
	if text != "text" && text != "json" {
		return "", errors.New("is neither text nor json")
	}
	return text, nil
}

// parseJSONLogging returns the log's format for a value of JSON_LOGGING.
func parseJSONLogging(text string) (string, error) {
	switch text {
	case "true":
		return "json", nil
	case "false":
		return "text", nil
	}
	return "", fmt.Errorf("%q is neither true nor false", text)
}

func parseLevel(text string) (level slog.Level, err error) {
	if level.UnmarshalText([]byte(text)) != nil {
		return 0, errors.New("is none of debug, info, warn, error")
	}
	return level, nil
}
