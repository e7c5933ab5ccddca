package buildclient

import (
	"io"
	"testing"

	"iglu.sh/builder/test/kit/termtest"
)

func TestWithColors(t *testing.T) {
	for job, want := range map[string]string{
		`{"git":{"noClone":true}}`:      `{"git":{"noClone":true},"colors":true}`,
		"{\n  \"git\": {}\n}\n":         "{\n  \"git\": {}\n,\"colors\":true}\n",
		`{"git":{},"colors":false}`:     `{"git":{},"colors":false}`,
		`{"colors":true,"git":{"a":1}}`: `{"colors":true,"git":{"a":1}}`,
		`{"git":{"colors":false}}`:      `{"git":{"colors":false},"colors":true}`,
		`{"git":`:                       `{"git":`,
		`{}`:                            `{}`,
		`null`:                          `null`,
		`[]`:                            `[]`,
	} {
		if got := string(withColors([]byte(job))); got != want {
			t.Errorf("%s: got %s, want %s", job, got, want)
		}
	}
}

// Colours are requested if they are shown.
func TestShowsColors(t *testing.T) {
	term := termtest.Open(t, 80, 10)
	for _, test := range []struct {
		name    string
		options Options
		term    string
		want    bool
	}{
		{"a terminal", Options{Stdout: term.TTY}, "xterm", true},
		{"NO_COLOR", Options{Stdout: term.TTY, NoColor: true}, "xterm", false},
		{"messages", Options{Stdout: term.TTY, JSON: true}, "xterm", false},
		{"TERM=dumb", Options{Stdout: term.TTY}, "dumb", false},
		{"a pipe", Options{Stdout: io.Discard}, "xterm", false},
	} {
		t.Setenv("TERM", test.term)
		if got := test.options.showsColors(); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
