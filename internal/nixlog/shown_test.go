package nixlog

import (
	"slices"
	"strings"
	"testing"
)

// The records are Nix 2.34.8's.
func TestOnShown(t *testing.T) {
	var shown []string
	log := newTestLog()
	log.OnShown(func(text string) { shown = append(shown, text) })
	log.Read(strings.NewReader(`{"action":"start","fields":["` + failing + `","",1,1],"id":2,"level":3,"parent":0,"text":"building '` + failing + `'","type":105}
{"action":"result","fields":["\u001b[36mcold\u001b[0m wall \r"],"id":2,"type":101}
{"action":"msg","level":1,"msg":"\u001b[35;1mwarning:\u001b[0m thin\n  ice","raw_msg":"thin"}
{"action":"start","id":3,"level":0,"parent":0,"text":"","type":104}
{"action":"result","fields":["of nothing that is known"],"id":9,"type":101}
`))
	log.Close()
	want := []string{"building '" + failing + "'...", "\x1b[2mfail> \x1b[0m\x1b[36mcold\x1b[0m wall", "\x1b[35;1mwarning:\x1b[0m thin\n  ice"}
	if !slices.Equal(shown, want) {
		t.Errorf("got  %q\nwant %q", shown, want)
	}
}

func TestWithoutVersion(t *testing.T) {
	for name, want := range map[string]string{
		"hello-2.12": "hello", "wall": "wall", "gcc-wrapper-14": "gcc-wrapper", "a-b-c": "a-b-c", "x-": "x-", "a--1": "a", "": "",
		"x-a1": "x-a1", "x-Z1": "x-Z1", "x-z": "x-z", "x-A": "x-A", "x-{": "x", "x-`": "x", "x-@": "x", "x-[": "x",
	} {
		if got := withoutVersion(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
