package termtext

import (
	"bytes"
	"testing"
)

// The plain lines are those of Nix 2.34.8.
func TestAppendColored(t *testing.T) {
	tests := []struct{ plain, colored, want string }{
		{"plain", "plain", "plain"},
		{"", "", ""},
		{"", "\x1b[0m", "\x1b[0m"},
		{"error: no", "\x1b[31;1merror:\x1b[0m no", "\x1b[31;1merror:\x1b[0m no"},
		{"a> cut  ting", "\x1b[2ma> \x1b[0m\x1b[36mcut\x1b[0m\tting", "\x1b[2ma> \x1b[0m\x1b[36mcut\x1b[0m  ting"},
		{"x    y", "x\t  y", "x    y"},
		{"x     y", "x \t\x1b[1m\t y", "x   \x1b[1m  y"},
		{"a> osc", "a> \x1b[2K\x1b]0;t\aosc", "a> osc"},
		{"a> link", "a> \x1b]8;;http://x\x1b\\\x1b[4mlink", "a> \x1b[4mlink"},
		{"ab", "\ra\ab\r", "ab"},
		{"日本 é", "\x1b[1m日本\x1b[0m é", "\x1b[1m日本\x1b[0m é"},
		{"x", "\x1b[>4;2mx\x1b[31 m", "x"}, // these set no colours
		{"x", "x\x1b", "x"},
		{"x", "x\x1b[", "x"},
		{"x", "x\x1b]8", "x"},
		{"x", "x\x1b[3", "x"},
	}
	for _, test := range tests {
		got, same := AppendColored([]byte("- "), []byte(test.plain), test.colored)
		if !same || string(got) != "- "+test.want {
			t.Errorf("%q, %q: got %q, %v, want %q", test.plain, test.colored, got, same, test.want)
		}
	}
	for _, test := range [][2]string{
		{"a", "b"}, {"a", ""}, {"", "a"}, {"ab", "\x1b[1ma"}, {"a", "\x1b[1mab"}, {"xy", "x\ty"}, {"x  y", "x\t  y"}, {"x ", "x"}, {"xm", "x\x1b[1m"},
	} {
		if got, same := AppendColored(nil, []byte(test[0]), test[1]); same {
			t.Errorf("%q is taken for %q: %q", test[1], test[0], got)
		}
	}
}

// Whatever a builder prints, nothing but colours is added.
func FuzzAppendColored(f *testing.F) {
	f.Add([]byte("a> cut  ting"), "\x1b[2ma> \x1b[0m\x1b[36mcut\x1b[0m\tting")
	for _, test := range hostile {
		f.Add([]byte(test.shown), test.line)
	}
	f.Fuzz(func(t *testing.T, plain []byte, colored string) {
		got, same := AppendColored(nil, plain, colored)
		if !same {
			return
		}
		for rest := got; len(rest) > 0; {
			switch n := colors(rest); {
			case len(plain) > 0 && plain[0] == rest[0]:
				plain, rest = plain[1:], rest[1:]
			case n > 0:
				rest = rest[n:]
			default:
				t.Fatalf("%q becomes %q", colored, got)
			}
		}
		if len(bytes.TrimSpace(plain)) > 0 {
			t.Fatalf("%q becomes %q: %q is missing", colored, got, plain)
		}
	})
}
