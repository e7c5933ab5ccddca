package textcut

import "testing"

func TestAt(t *testing.T) {
	for _, tt := range []struct {
		text    string
		n, want int
	}{
		{"abc", 0, 0},
		{"abc", 2, 2},
		{"aé", 1, 1},
		{"éa", 1, 0},
		{"a€b", 2, 1},
		{"a€b", 3, 1},
		{"a€b", 4, 4},
		{"😀a", 3, 0},
		{"\x80\x80\x80", 2, 0}, // no character begins
	} {
		if got := At(tt.text, tt.n); got != tt.want {
			t.Errorf("At(%q, %d) = %d, want %d", tt.text, tt.n, got, tt.want)
		}
	}
}

func TestShort(t *testing.T) {
	for text, want := range map[string]string{"": "", "abc": "abc", "abcd": "abc…", "ab€": "ab…", "a€": "a…"} {
		if got := Short(text, 3); got != want {
			t.Errorf("Short(%q, 3) = %q, want %q", text, got, want)
		}
	}
}

func TestWhole(t *testing.T) {
	for text, want := range map[string]int{
		"":                  0,
		"abc":               3,
		"aé":                3,
		"a\xc3":             1,
		"a\xe2\x82":         1,
		"a\xf0\x9f\x98":     1,
		"a😀":                5,
		"\xf0":              0,
		"a\x80":             2, // no character, but not an incomplete one
		"a\x80\x80\x80":     4,
		"é\xff":             3,
		"a\xe2\x82\xac\xe2": 4,
	} {
		if got := Whole([]byte(text)); got != want {
			t.Errorf("Whole(%q) = %d, want %d", text, got, want)
		}
	}
}
