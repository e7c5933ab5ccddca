package redact

import (
	"encoding/base64"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// A piece is what one call of Append gets.
type piece struct {
	text  string
	split bool
}

func (p piece) String() string {
	if p.split {
		return p.text + "…"
	}
	return p.text
}

// through returns what a stream of r makes of pieces.
func through(r *Redactor, pieces []piece) []string {
	state := r.Lines()
	out := make([]string, len(pieces))
	for i, p := range pieces {
		out[i] = string(state.Append(nil, []byte(p.text), p.split))
	}
	return out
}

// checkTogether checks that it makes no difference how many lines a stream of r gets at once.
func checkTogether(t *testing.T, r *Redactor, pieces []piece) {
	t.Helper()
	var want []byte
	for i, text := range through(r, pieces) {
		want = append(want, text...)
		if !pieces[i].split {
			want = append(want, lineFeed)
		}
	}
	for most := 1; most <= 4; most++ {
		state := r.Lines()
		var got []byte
		for rest := pieces; len(rest) > 0; {
			var lines []byte
			for range most {
				if len(rest) > 0 && !rest[0].split {
					lines = append(append(lines, rest[0].text...), lineFeed)
					rest = rest[1:]
				}
			}
			got = state.AppendLines(got, lines)
			if len(rest) > 0 && rest[0].split {
				got = state.Append(got, []byte(rest[0].text), true)
				rest = rest[1:]
			}
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Fatalf("%q, %d at once (-one by one +together):\n%s", pieces, most, diff)
		}
	}
}

// TestTogether has lines of all kinds, with and without secrets that go on from one to the
// next.
func TestTogether(t *testing.T) {
	rng := seeded(9)
	log := nixLog(rng, 1<<20)
	for range 2000 {
		secrets := tokens(rng, 1+rng.IntN(4))
		if rng.IntN(2) == 0 {
			secrets = append(secrets, randomText(rng, tokenChars, minSecret+rng.IntN(20)))
		}
		var text []string
		for range 1 + rng.IntN(8) {
			line := log[rng.IntN(len(log))]
			secret := secrets[rng.IntN(len(secrets))]
			switch rng.IntN(8) {
			case 0:
				line += secret
			case 1:
				line = "see https://user:" + randomText(rng, tokenChars, 8) + "@host/" + line
			case 2:
				line = "\x1b[1m" + line
			case 3:
				before := string(randomBytes(rng, rng.IntN(100)))
				line = strings.Join(wrap(base64.StdEncoding.EncodeToString([]byte(before+secret+before)), wrapColumn), "\n")
			}
			text = append(text, line)
		}
		checkTogether(t, New(secrets...), cutUp(rng, strings.Join(text, "\n")))
	}
}

// A model redacts pieces without escape sequences, URLs and Nix's prefixes, by looking
// for each form in turn. It is what the package is held against.
type model struct {
	forms  []string
	hidden [][]bool // by piece and byte
}

func modelled(forms []string, pieces []piece) []string {
	m := model{forms: forms}
	for _, p := range pieces {
		m.hidden = append(m.hidden, make([]bool, len(p.text)))
	}
	line, first := "", 0
	for i, p := range pieces {
		line += p.text
		if !p.split && !wrappable.MatchString(line) {
			m.hide(pieces[first:i+1], m.hidden[first:i+1], false)
			first = i + 1
		}
		if !p.split {
			line = ""
		}
	}
	m.hide(pieces[first:], m.hidden[first:], true)
	out := make([]string, len(pieces))
	for i, p := range pieces {
		out[i] = render(p.text, m.hidden[i])
	}
	return out
}

var wrappable = regexp.MustCompile(`[A-Za-z0-9+/_=-]{64}$`)

// hide hides what is to be hidden in pieces, each of which goes on in the next, and
// the last in what nobody sees if it goesOn.
func (m *model) hide(pieces []piece, hidden [][]bool, goesOn bool) {
	text := ""
	for i, p := range pieces {
		border := len(text)
		text += p.text
		for _, form := range m.forms {
			// What lies in one piece, and the end of what began in those before.
			for at := max(0, border-len(form)+1); strings.Contains(text[at:], form); at++ {
				at += strings.Index(text[at:], form)
				fill(hidden[i], at-border, at+len(form)-border)
			}
		}
		if length := m.beginning(text); length >= minSecret && (goesOn || i < len(pieces)-1) {
			fill(hidden[i], len(p.text)-length, len(p.text))
		}
	}
}

// fill sets set from start up to end.
func fill(set []bool, start, end int) {
	for i := max(0, start); i < end; i++ {
		set[i] = true
	}
}

// beginning returns the length of the longest beginning of a form that text ends with.
func (m *model) beginning(text string) int {
	longest := 0
	for _, form := range m.forms {
		for length := min(len(form), len(text)); length > longest; length-- {
			if strings.HasSuffix(text, form[:length]) {
				longest = length
			}
		}
	}
	return longest
}

// render puts a mask in place of each run of hidden bytes.
func render(text string, hidden []bool) string {
	var out strings.Builder
	for i := range len(text) {
		if !hidden[i] {
			out.WriteByte(text[i])
		} else if i == 0 || !hidden[i-1] {
			out.WriteString(mask)
		}
	}
	return out.String()
}

// formsOf returns the forms of secrets.
func formsOf(secrets ...string) (forms []string) {
	for _, secret := range secrets {
		forms = appendForms(forms, secret)
	}
	return forms
}

// cutUp cuts text into lines and at random borders of runes, few or many.
func cutUp(rng *rand.Rand, text string) (pieces []piece) {
	one := 1 + rng.IntN(40)
	for _, line := range strings.Split(text, "\n") {
		start := 0
		for i := range line {
			if i > 0 && rng.IntN(one) == 0 {
				pieces = append(pieces, piece{line[start:i], true})
				start = i
			}
		}
		pieces = append(pieces, piece{line[start:], false})
	}
	return pieces
}

// overlapping returns secrets of few characters, and a text in which parts of their
// forms overlap each other.
func overlapping(rng *rand.Rand) (secrets []string, text string) {
	alphabet := []string{"ab", "abc", "aé", "ab枝/\"", "a +"}[rng.IntN(5)]
	chars := []rune(alphabet)
	word := func(length int) string {
		var s strings.Builder
		for range length {
			s.WriteRune(chars[rng.IntN(len(chars))])
		}
		return s.String()
	}
	for range 1 + rng.IntN(4) {
		secrets = append(secrets, word(5+rng.IntN(10)))
	}
	forms := append(formsOf(secrets...), "x")
	var s strings.Builder
	for range rng.IntN(30) {
		form := forms[rng.IntN(len(forms))]
		switch rng.IntN(6) {
		case 0:
			s.WriteString(word(rng.IntN(20)))
		case 1, 2:
			s.WriteString(form)
		case 3:
			s.WriteString(strings.ToValidUTF8(form[:rng.IntN(len(form)+1)], ""))
		case 4:
			s.WriteString(strings.ToValidUTF8(form[rng.IntN(len(form)+1):], ""))
		case 5:
			s.WriteString([]string{"\n", " ", "xyz", strings.Repeat("/", wrapColumn)}[rng.IntN(4)])
		}
	}
	return secrets, s.String()
}

func TestAgainstModel(t *testing.T) {
	rng := seeded(6)
	found := 0
	for range 1000 {
		secrets, text := overlapping(rng)
		pieces := cutUp(rng, text)
		checkTogether(t, New(secrets...), pieces)
		got, want := through(New(secrets...), pieces), modelled(formsOf(secrets...), pieces)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("secrets %q in %q (-model +got):\n%s", secrets, pieces, diff)
		}
		found += strings.Count(strings.Join(got, ""), mask)
	}
	if found < 1000 {
		t.Errorf("only %d secrets were found", found)
	}
}

// However a line is cut, no secret is in what its parts are together, and nothing
// that is masked in the whole line is left but fewer than 6 bytes before a cut.
func TestAnyCut(t *testing.T) {
	rng := seeded(7)
	for range 300 {
		secrets := []string{randomText(rng, tokenChars, 6+rng.IntN(60)), randomText(rng, "ab", 6), "pass wörd/" + randomText(rng, "xy+", 9)}
		forms := formsOf(secrets...)
		line := "https://user:kkkkkkkk@host/ " + randomText(rng, tokenChars, rng.IntN(50))
		for range 4 {
			line += forms[rng.IntN(len(forms))] + randomText(rng, " {}\"", rng.IntN(3))
		}
		r := New(secrets...)
		checkParts(t, r, forms, cutUp(rng, line))
		checkParts(t, r, forms, cutUp(rng, coloured(rng, []string{line})[0]))
	}
}

func checkParts(t *testing.T, r *Redactor, forms []string, pieces []piece) {
	t.Helper()
	parts := through(r, pieces)
	text := plain(strings.Join(parts, ""))
	for _, form := range append(forms, "kkkkkk") {
		if strings.Contains(text, form) {
			t.Fatalf("%q is left in %q, of %q", form, parts, pieces)
		}
	}
}

// sequence matches an escape sequence, or the beginning of one.
var sequence = regexp.MustCompile(`(?s)\x1b(?:` +
	`\[[ -?]*[@-~]?|` +
	`[\]PX^_][^\a\x18\x1a\x1b]*(?:\a|\x18|\x1a|\x1b\\|\x1b$)?|` +
	`[ -/]+[0-~]?|` +
	`[0-~])?`)

// plain returns text without escape sequences.
func plain(text string) string { return sequence.ReplaceAllString(text, "") }

// noise is what escape sequences and their like are made of.
var noise = []string{
	"\x1b", "[", "]", "0;1", "m", "\x1b[0m", "\x1b[", "\x1b]", "\x1b]0;", "\a", "\x1b\\", "\\", "(", "\x1b(B", "P", "\x1bP", "\x1bM", "\x18", "é", "\t",
}

// In whatever way escape sequences stand in a line, whole or broken, the visible part
// of what is left is that of the line, redacted, unless a secret lies in a sequence.
func TestEscapesAgainstModel(t *testing.T) {
	rng := seeded(8)
	for range 2000 {
		secrets := []string{randomText(rng, "ab", 6+rng.IntN(4)), randomText(rng, "aB", 6)}
		var s strings.Builder
		for range rng.IntN(60) {
			switch rng.IntN(4) {
			case 0:
				s.WriteString(noise[rng.IntN(len(noise))])
			case 1:
				s.WriteString(secrets[rng.IntN(2)])
			default:
				s.WriteString(randomText(rng, "aabbBx", 1))
			}
		}
		checkEscapes(t, secrets, s.String(), cutUp(rng, s.String()))
	}
}

// checkEscapes checks how pieces, the parts of one line, are redacted.
func checkEscapes(t *testing.T, secrets []string, line string, pieces []piece) {
	t.Helper()
	forms, r := formsOf(secrets...), New(secrets...)
	whole := through(r, []piece{{text: line}})[0]
	parts := strings.Join(through(r, pieces), "")
	for name, out := range map[string]string{"whole": whole, "parts": parts} {
		seen := plain(out)
		for _, form := range forms {
			if strings.Contains(seen, form) || strings.Contains(line, form) && strings.Contains(out, form) {
				t.Fatalf("%s: %q is left in %q, of %q", name, form, out, line)
			}
		}
	}
	seen := modelled(forms, []piece{{text: plain(line)}})[0]
	if inSequence(forms, line) || swallowed.MatchString(whole) {
		return
	}
	if got := plain(whole); got != seen {
		t.Fatalf("%q of %q shows %q, want %q", whole, line, got, seen)
	}
	if got, want := strings.Join(sequence.FindAllString(whole, -1), ""), strings.Join(sequence.FindAllString(line, -1), ""); got != want {
		t.Fatalf("%q of %q has sequences %q, want %q", whole, line, got, want)
	}
}

// swallowed is a mask that follows a sequence which is not complete.
var swallowed = regexp.MustCompile(`\x1b(?:\[[ -?]*|[ -/]*)\*\*\*`)

// inSequence tells whether a form lies in line's escape sequences, in part at least.
func inSequence(forms []string, line string) bool {
	for _, s := range sequence.FindAllStringIndex(line, -1) {
		for _, form := range forms {
			if strings.Contains(line[max(0, s[0]-len(form)+1):min(len(line), s[1]+len(form)-1)], form) {
				return true
			}
		}
	}
	return false
}

// FuzzLines cuts text, a line or more, into parts whose lengths in runes are the
// bytes of cuts, over and over. Where a byte is 0, the line goes on to its end.
func FuzzLines(f *testing.F) {
	wrapped := strings.Repeat("x", 70) + "c2VjcmV0\nc2VjcmV0"
	for i, text := range []string{
		"a secret in c2VjcmV0 of 736563726574", "secsecretret", wrapped, "sec\x1b[1mret", "\x1b]0;secret\a",
		"https://user:secret@host", "secret\n\nsecret\r", "aaaaaaaaaaaaaab", strings.Repeat("secret", 20),
	} {
		f.Add("secret", "aaaaaab", text, []byte{byte(i), 3, 0})
		f.Add("secretsecret", "retsec\nfirst line\nsecond", text, []byte{1})
	}
	f.Fuzz(func(t *testing.T, secret, other, text string, cuts []byte) {
		text = strings.ToValidUTF8(text, "\ufffd")
		secret, other = strings.ToValidUTF8(secret, ""), strings.ToValidUTF8(other, "")
		if len(text) > 600 || len(secret)+len(other) > 200 || strings.Contains(secret+other, "*") {
			return // the model is slow, and a mask may complete what has a * in it
		}
		pieces := cutBy(text, cuts)
		checkTogether(t, New(secret, other), pieces)
		switch {
		case strings.Contains(text, "://") || strings.Contains(text, "> "):
			through(New(secret, other), pieces)
		case strings.Contains(text, "\x1b"):
			through(New(secret, other), pieces)
			if !strings.Contains(secret+other, "\x1b") && !strings.Contains(text, "\n") && !wrappable.MatchString(plain(text)) {
				checkEscapes(t, []string{secret, other}, text, pieces)
			}
		default:
			got, want := through(New(secret, other), pieces), modelled(formsOf(secret, other), pieces)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-model +got):\n%s", diff)
			}
		}
	})
}

// cutBy cuts text into lines and these into parts of so many runes.
func cutBy(text string, cuts []byte) (pieces []piece) {
	next := 0
	for _, line := range strings.Split(text, "\n") {
		for len(cuts) > 0 {
			runes := int(cuts[next%len(cuts)])
			next++
			if runes == 0 || runes >= utf8.RuneCountInString(line) {
				break
			}
			part := string([]rune(line)[:runes])
			pieces = append(pieces, piece{part, true})
			line = line[len(part):]
		}
		pieces = append(pieces, piece{line, false})
	}
	return pieces
}

// FuzzString checks that nothing of a secret is left in any text.
func FuzzString(f *testing.F) {
	for _, text := range []string{
		"", "secret", "a secret\nand another secret\r\n", "c2VjcmV0", `"secret"`, "%73ecret", "\x1b[0msec\x1b[1mret", "sec\xffret", "https://user:secret@host/secret",
	} {
		f.Add("secret", text)
		f.Add("sec\nret secret\r\nsecret", text)
		f.Add("\x1bsecret\xff", text)
	}
	f.Fuzz(func(t *testing.T, secret, text string) {
		r := New(secret)
		got := r.String(text)
		masked := false
		for _, form := range formsOf(secret) {
			masked = masked || strings.Contains(plain(text), form) || strings.Contains(text, form)
			if strings.Contains(text, form) && strings.Contains(got, form) && !strings.ContainsAny(form, "*\r\n") {
				t.Errorf("%q is left in %q", form, got)
			}
		}
		if !masked && !strings.Contains(text, "://") && len(text) < wrapColumn && got != text {
			t.Errorf("got %q for %q, without the secret in it", got, text)
		}
		if none := New(secret[:min(len(secret), minSecret-1)]); !strings.Contains(text, "://") && none.String(text) != text {
			t.Errorf("a short secret is masked in %q", text)
		}
	})
}

// What is cut is followed in each way to read it, and no further than the line's end.
func TestCuts(t *testing.T) {
	r := New("secret", "ab\x1bMcdef")
	for _, tt := range []struct {
		name   string
		pieces []piece
		want   []string
	}{
		{"secret", []piece{{"a sec", true}, {"ret b", false}}, []string{"a sec", "*** b"}},
		{"secret of lines", []piece{{"a sec", false}, {"ret b", false}}, []string{"a sec", "ret b"}},
		{"nothing between", []piece{{"sec", true}, {"", true}, {"ret", false}}, []string{"sec", "", "***"}},
		{"only sequences between", []piece{{"sec", true}, {"\x1b[1m", true}, {"ret", false}}, []string{"sec", "\x1b[1m", "***"}},
		{"within a control sequence", []piece{{"sec\x1b[1", true}, {";2mret", false}}, []string{"sec\x1b[1", ";2m***"}},
		{"within a title", []piece{{"sec\x1b]0;x", true}, {"y\aret", false}}, []string{"sec\x1b]0;x", "y\a***"}},
		{"within a title's end", []piece{{"sec\x1b]0;x\x1b", true}, {"\\ret", false}}, []string{"sec\x1b]0;x\x1b", "\\***"}},
		{"as a title is broken off", []piece{{"sec\x1b]0;x\x1b", true}, {"[1mret", false}}, []string{"sec\x1b]0;x\x1b", "[1m***"}},
		{"secret in a title", []piece{{"\x1b]0;a sec", true}, {"ret b\a", false}}, []string{"\x1b]0;a sec", "*** b\a"}},
		{"secret with a sequence", []piece{{"ab", true}, {"\x1bMcdef.", false}}, []string{"ab", "***."}},
		{"URL of lines", []piece{{"https:", true}, {"", false}, {"//u:k@h", false}}, []string{"https:", "", "//u:k@h"}},
		{"URL's key of lines", []piece{{"https://u:", true}, {"", false}, {"k@h", false}}, []string{"https://u:", "", "k@h"}},
		{"no prefix", []piece{{"x> sec", true}, {"x> ret", false}}, []string{"x> sec", "x> ret"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, through(r, tt.pieces)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A secret that begins in one of its stream's lines and ends in another stream's is
// none.
func TestStreamsAreApart(t *testing.T) {
	r := New("secret")
	one, other := r.Lines(), r.Lines()
	one.Append(nil, []byte("sec"), true)
	if got := other.Append(nil, []byte("ret"), false); string(got) != "ret" {
		t.Errorf("got %q", got)
	}
	if got := string(one.Append([]byte("x"), []byte("ret"), false)); got != "x"+mask {
		t.Errorf("got %q", got)
	}
}

// A key is found wherever its URL is cut.
func TestCutURL(t *testing.T) {
	const url, before = "see https://user:key@host/path", len("see https://user:")
	for i := range len(url) + 1 {
		for j := i; j <= len(url); j++ {
			parts := through(nil, []piece{{url[:i], true}, {url[i:j], true}, {url[j:], false}})
			text := strings.Join(parts, "")
			if strings.ContainsAny(text[before:], "ky") || !strings.HasPrefix(text, url[:before]+mask) || !strings.HasSuffix(text, "/path") {
				t.Errorf("cut at %d and %d: %q", i, j, parts)
			}
		}
	}
}
