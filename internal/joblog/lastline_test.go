package joblog

import (
	"strings"
	"testing"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

func TestLastLine(t *testing.T) {
	long := strings.Repeat("x", lastLineWithin)
	for name, test := range map[string]struct {
		printed, want string
		limit         int64
	}{
		"nothing":          {"", "", 1 << 20},
		"the builder's":    {"iglu: running\n", "", 1 << 20},
		"before its own":   {"one\ntwo\n\n \niglu: push: done\n", "two", 1 << 20},
		"long":             {"a\n" + long[:maxLastLine*2] + "\n", long[:maxLastLine], 1 << 20},
		"longer":           {"a\n" + long + "\n", "", 1 << 20},
		"behind a long":    {long + "\nb\n", "b", 1 << 20},
		"of a log cut":     {"first\n" + strings.Repeat("line\n", 10_000) + "last\n", "last", cutReserve + 100},
		"only one behind":  {"last\n", "last", cutReserve},
		"after a long cut": {"first\n" + strings.Repeat("x", 3*keptTail) + "\nlast\n", "last", cutReserve + 100},
		"as long as read":  {long[:lastLineWithin-1] + "\n", long[:maxLastLine], 1 << 20},
		"secret":           {"the key is hunter2hunter2\n", "the key is ***", 1 << 20},
		"not ended":        {"one\ntwo", "two", 1 << 20},
		"Nix's hint":       {"error: unrecognised flag '--x'\nTry 'nix --help' for more information.\n", "error: unrecognised flag '--x'", 1 << 20},
		"only empty ones":  {"\n\n", "", 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.TempDir(), Keep{Jobs: 1}, test.limit)
			if err != nil {
				t.Fatal(err)
			}
			log, err := s.Create("job", redact.New("hunter2hunter2"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			out := log.Stream(schemas.Stdout)
			out.Write([]byte(test.printed))
			out.Close()
			if got := log.LastLine(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
