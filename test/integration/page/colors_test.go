//go:build integration

package page

import (
	"fmt"
	"testing"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
)

// TestColors shows lines with colours in each form in which programs write them.
func TestColors(t *testing.T) {
	k := serveKept(t)
	tests := []struct{ line, want string }{ // want: a JavaScript expression for the span
		{"\x1b[31mred\x1b[0m", "span.className === 'c1'"},
		{"\x1b[38;5;9mone of 256\x1b[m", "span.className === 'c9'"},
		{"\x1b[38:5:9mone of 256, with colons\x1b[m", "span.className === 'c9'"},
		{"\x1b[48;2;1;2;3mRGB\x1b[m", "span.style.backgroundColor === 'rgb(1, 2, 3)'"},
		{"\x1b[48:2:1:2:3mRGB with colons\x1b[m", "span.style.backgroundColor === 'rgb(1, 2, 3)'"},
		{"\x1b[48:2::1:2:3mRGB with a colour space\x1b[m", "span.style.backgroundColor === 'rgb(1, 2, 3)'"},
		{"\x1b[1;48:2::1:2:3;3mand more\x1b[m", "span.style.backgroundColor === 'rgb(1, 2, 3)' && span.className === 'bold italic'"},
		{"\x1b[4:3mcurly underline\x1b[m", "span.className === 'underlined'"},
		{"\x1b[4;32m\x1b[4:0mno underline\x1b[m", "span.className === 'c2'"},
		{"\x1b[32;58;5;1munderline of another colour\x1b[m", "span.className === 'c2'"},
		{"\x1b[32;58;2;1;2;3munderline of RGB\x1b[m", "span.className === 'c2'"},
		{"\x1b[32;58:2::1:2:3munderline of RGB with colons\x1b[m", "span.className === 'c2'"},
		{"\x1b[32;38;5mcut short\x1b[m", "span.className === 'c2'"},
		{"\x1b[32;38;5;256mno such colour\x1b[m", "span.className === 'c2'"},
	}
	r := history.Record{Job: "colors", Command: "nix build"}
	l := k.begin(r)
	for _, test := range tests {
		tell(l, nil, test.line)
	}
	k.end(l, r, schemas.Exited(0))
	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/colors")
	b.Until(fmt.Sprintf("document.querySelectorAll('.row:not(.waits)').length === %d", len(tests)))
	for n, test := range tests {
		const span = "((span) => (%s) || span?.outerHTML || 'no span')(document.querySelectorAll('.row .line')[%d].querySelector('span'))"
		if got := browser.Eval[any](b, fmt.Sprintf(span, test.want, n)); got != true {
			t.Errorf("%q: %v", test.line, got)
		}
	}
}
