package redact

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/shellwords"
)

// redacted returns lines after they went through one stream of r.
func redacted(r *Redactor, lines ...string) []string {
	state := r.Lines()
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = string(state.Append(nil, []byte(line), false))
	}
	return out
}

// awkward has what each encoding treats in a way of its own.
const awkward = `p+/w "é<😀>&\` + "\t" + `=~ü?`

func TestForms(t *testing.T) {
	goJSON, err := json.Marshal(awkward)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString([]byte(awkward))
	if !strings.ContainsAny(b64, "+/") || !strings.HasSuffix(b64, "=") {
		t.Fatalf("%s does not tell the alphabets apart, or is not padded", b64)
	}
	for name, form := range map[string]string{
		"raw":                     awkward,
		"base64":                  b64,
		"base64, unpadded":        strings.TrimRight(b64, "="),
		"base64, URL":             base64.URLEncoding.EncodeToString([]byte(awkward)),
		"base64, URL, unpadded":   base64.RawURLEncoding.EncodeToString([]byte(awkward)),
		"hex":                     hex.EncodeToString([]byte(awkward)),
		"hex, upper":              fmt.Sprintf("%X", awkward),
		"percent, upper":          "p%2B%2Fw%20%22%C3%A9%3C%F0%9F%98%80%3E%26%5C%09%3D~%C3%BC%3F",
		"percent, lower":          "p%2b%2fw%20%22%c3%a9%3c%f0%9f%98%80%3e%26%5c%09%3d~%c3%bc%3f",
		"query":                   url.QueryEscape(awkward),
		"path":                    url.PathEscape(awkward),
		"JSON, Go":                string(goJSON[1 : len(goJSON)-1]),
		"JSON":                    `p+/w \"é<😀>&\\\t=~ü?`,
		"JSON, slash":             `p+\/w \"é<😀>&\\\t=~ü?`,
		"JSON, ASCII":             `p+/w \"\u00e9<\ud83d\ude00>&\\\t=~\u00fc?`,
		"JSON, ASCII, slash":      `p+\/w \"\u00e9<\ud83d\ude00>&\\\t=~\u00fc?`,
		"JSON, ASCII, upper":      `p+/w \"\u00E9<\uD83D\uDE00>&\\\t=~\u00FC?`,
		"JSON, Go, HTML, literal": `p+/w \"é\u003c😀\u003e\u0026\\\t=~ü?`,
	} {
		t.Run(name, func(t *testing.T) {
			r := New("another secret", awkward)
			for _, line := range []string{"%s", "before %s", "%s after", "{%s}", "(%s)(%[1]s)"} {
				got, want := r.String(fmt.Sprintf(line, form)), fmt.Sprintf(line, mask)
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
			if part := form[:len(form)-4]; r.String(part) != part {
				t.Errorf("got %q for a part of the form", r.String(part))
			}
		})
	}
}

// TestURLForms looks for a secret as programs encode it for URLs. The forms are those that the programs printed.
func TestURLForms(t *testing.T) {
	const secret = `a/b+c=d ~(e)!*'f@g:h&i;j,k$l#mé`
	r := New(secret)
	for name, form := range map[string]string{
		"Python: quote":                    `a/b%2Bc%3Dd%20~%28e%29%21%2A%27f%40g%3Ah%26i%3Bj%2Ck%24l%23m%C3%A9`,
		"Python: quote_plus":               `a%2Fb%2Bc%3Dd+~%28e%29%21%2A%27f%40g%3Ah%26i%3Bj%2Ck%24l%23m%C3%A9`,
		"JavaScript: encodeURIComponent":   `a%2Fb%2Bc%3Dd%20~(e)!*'f%40g%3Ah%26i%3Bj%2Ck%24l%23m%C3%A9`,
		"JavaScript: URLSearchParams":      `a%2Fb%2Bc%3Dd+%7E%28e%29%21*%27f%40g%3Ah%26i%3Bj%2Ck%24l%23m%C3%A9`,
		"Go: url.PathEscape":               url.PathEscape(secret),
		"RFC 3986, as curl and jq have it": `a%2Fb%2Bc%3Dd%20~%28e%29%21%2A%27f%40g%3Ah%26i%3Bj%2Ck%24l%23m%C3%A9`,
	} {
		if got := r.String("key=" + form + "&x=1"); got != "key="+mask+"&x=1" {
			t.Errorf("%s: got %s", name, got)
		}
	}
	// As a key of 64 bytes looks in Python.
	if got := New("SgykdnDTu9iRkZZ/haif81C22f+ERBiagMvD2oeMBUaE/w==").String("SgykdnDTu9iRkZZ/haif81C22f%2BERBiagMvD2oeMBUaE/w%3D%3D"); got != mask {
		t.Errorf("got %s", got)
	}
}

// quotable has what shells treat in ways of their own.
const quotable = `it's a "$ecret` + "`" + `\!`

// The forms are those that the programs printed.
func TestShellForms(t *testing.T) {
	r := New(quotable)
	for name, text := range map[string]string{
		"bash: set -x, ${x@Q}; zsh":  `'it'\''s a "$ecret` + "`" + `\!'`,
		"dash: export -p; Python":    `'it'"'"'s a "$ecret` + "`" + `\!'`,
		"bash: export -p":            `"it's a \"\$ecret\` + "`" + `\\!"`,
		"bash: with a control char.": `$'it\'s a "$ecret` + "`" + `\\!'`,
		"bash: printf %q":            `it\'s\ a\ \"\$ecret\` + "`" + `\\\!`,
	} {
		want := mask
		if quote := text[len(text)-1:]; quote != "!" {
			want = text[:strings.Index(text, quote)+1] + mask + quote
		}
		if got := r.String("X=" + text + ";"); got != "X="+want+";" {
			t.Errorf("%s: got %s, want X=%s;", name, got, want)
		}
	}
}

// The program's own lines have commands as shellwords prints them.
func TestShellwords(t *testing.T) {
	r := New(quotable)
	for _, more := range []string{"", "\n"} {
		for _, line := range []string{shellwords.Show([]string{"echo", quotable + more}), shellwords.Join([]string{"echo", quotable + more})} {
			if got := r.String(line); strings.Contains(got, "ecret") {
				t.Errorf("got %s", got)
			}
		}
	}
}

// TestJSONForms looks for a secret in what the real encoder makes of a value around.
func TestJSONForms(t *testing.T) {
	data, err := json.Marshal(map[string]string{"key": awkward, "other": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := New(awkward).String(string(data)), `{"key":"***","other":"x"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// In base64 of a larger text, all characters with bits of the secret alone are
// masked, and no character that has none of them.
func TestBase64Alignments(t *testing.T) {
	const secret = "s3cr3t+key?>"
	r := New(secret)
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		for before := range 7 {
			for after := range 7 {
				text := strings.Repeat("\xfe", before) + secret + strings.Repeat("\xff", after)
				encoded := encoding.EncodeToString([]byte(text))
				start, end := (before*8+5)/6, (before+len(secret))*8/6
				if after == 0 {
					end = len(encoded)
				}
				want := encoded[:start] + mask + encoded[end:]
				if got := r.String(encoded); got != want {
					t.Errorf("%d before, %d after: got %s of %s, want %s", before, after, got, encoded, want)
				}
			}
		}
	}
}

func TestSecrets(t *testing.T) {
	const key = "-----BEGIN KEY-----\r\n  c2VjcmV0bGluZTE=\r\nc2VjcmV0bGluZTI=\r\nab==\r\n-----END KEY-----\r\n"
	for _, tt := range []struct {
		name    string
		secrets []string
		in      string
		want    string
	}{
		{"none", nil, "secret {}", "secret {}"},
		{"empty", []string{"", " ", "\n\n", "      \t\n"}, "a  b        c", "a  b        c"},
		{"short", []string{"{", "}", "abcde", " abcde\n"}, `{"a":"abcde YWJjZGU= 6162636465"}`, `{"a":"abcde YWJjZGU= 6162636465"}`},
		{"shortest", []string{"abcdef"}, "abcdef YWJjZGVm 616263646566 abcde", "*** *** *** abcde"},
		{"short, but long in bytes", []string{"ééé"}, "éé-ééé-é", "éé-***-é"},
		{"white space around", []string{"\n secret \r\n"}, "is secret.", "is ***."},
		{"white space within", []string{"a secret"}, "is a secret, a  secret", "is ***, a  secret"},
		{"touching", []string{"secret"}, "xsecretsecretx", "x***x"},
		{"touching, two", []string{"secret", "hidden"}, "secrethiddensecret hidden", "*** ***"},
		{"overlapping", []string{"abcdefgh", "efghijkl"}, "-abcdefghijkl-", "-***-"},
		{"one in another", []string{"abcdefghijkl", "defghi"}, "abcdefghijkl abcdefghijk", "*** abc***jk"},
		{"one in another, which ends later", []string{"bcdefg", "abcdefghij"}, "abcdefghi-abcdefghij", "a***hi-***"},
		{"one that ends another", []string{"abcdefghij", "efghij"}, "xefghij abcdefghij", "x*** ***"},
		{"overlapping itself", []string{"aabaabaa"}, "aabaabaabaabaac", "***c"},
		{"overlapping itself, not whole", []string{"aaaaab"}, "aaaaaaaaab aaaaa", "aaaa*** aaaaa"},
		{"bridge", []string{"bcdefg", "jklmno", "fghijk"}, "abcdefghijklmnop", "a***p"},
		{"twice the same", []string{"secret", "secret"}, "secret", "***"},
		{"in each line", []string{"secret"}, "secret\nb\r\nsecret\r\n\nsecret\n", "***\nb\r\n***\r\n\n***\n"},
		{"lines of a key", []string{key}, "c2VjcmV0bGluZTE= x c2VjcmV0bGluZTI= ab==", "*** x *** ab=="},
		{"a key's armour", []string{key}, "-----BEGIN KEY-----, -----END KEY-----", "-----BEGIN KEY-----, -----END KEY-----"},
		{"a whole key", []string{key}, key, "-----BEGIN KEY-----\r\n  ***\r\n***\r\nab==\r\n-----END KEY-----\r\n"},
		{"a whole key in JSON", []string{"abcdef\nab\n"}, `"abcdef\nab\n"`, `"***\n"`},
		{"a whole key in a URL", []string{"abcdef\nab\n"}, `abcdef%0Aab%0a abcdef%0aab`, `***%0a ***`},
		{"a whole key in hex", []string{"abcdef\nab\n"}, `6162636465660a61620a`, `***0a`},
		{"a whole key in base64", []string{"abcdef\nab"}, base64.StdEncoding.EncodeToString([]byte("abcdef\nab")), "***"},
		{"hex of a key's line", []string{key}, hex.EncodeToString([]byte("c2VjcmV0bGluZTE=")), "***"},
		{"lines ended by CR", []string{"abcdef\rghijkl"}, "ghijkl abcdef", "*** ***"},
		{"a key without line ends", []string{"-----BEGIN KEY-----abc-----END KEY-----"}, "-----BEGIN KEY-----abc-----END KEY-----", "***"},
		{"a key without its first line end", []string{"-----BEGIN KEY-----abcdef\nghijkl\n"}, "-----BEGIN KEY-----abcdef ghijkl", "*** ***"},
		{"a key without its last line end", []string{"abcdef\nghijkl-----END KEY-----\n"}, "abcdef ghijkl-----END KEY-----", "*** ***"},
		{"a mask", []string{"secret"}, "***secret***", "*********"},
		{"runes around", []string{"sécret"}, "é枝sécret枝é", "é枝***枝é"},
		{"invalid UTF-8", []string{"secret"}, "\xffsecret\xe6\x9e", "\xff***\xe6\x9e"},
		{"NUL", []string{"sec\x00ret"}, "\x00sec\x00ret\x00", "\x00***\x00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, New(tt.secrets...).String(tt.in)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestURLs(t *testing.T) {
	var none *Redactor
	withSecret := New("other secret")
	for _, tt := range []struct{ in, want string }{
		{"https://user:key@host/path", "https://user:***@host/path"},
		{"fatal: 'https://user:key@host/': 403", "fatal: 'https://user:***@host/': 403"},
		{"https://:key@host", "https://:***@host"},
		{"https://user:@host", "https://user:@host"},
		{"https://user:a@b:c@host", "https://user:***@host"},
		{"https://a@b:c@host", "https://a@b:***@host"},
		{"https://user:k%40y@host:443/x:y@z", "https://user:***@host:443/x:y@z"},
		{"git+ssh://u:k@h?x=a://u:k@h#a://u:k@h", "git+ssh://u:***@h?x=a://u:***@h#a://u:***@h"},
		{"https://user:ké枝y@host", "https://user:***@host"},
		{"ssh://git@host", "ssh://git@host"},
		{"ssh://git@host:22/x", "ssh://git@host:22/x"},
		{"http://host:80/x@y", "http://host:80/x@y"},
		{"http://host:80?x@y", "http://host:80?x@y"},
		{"http://host:80#x@y", "http://host:80#x@y"},
		{"http://host:80 x@y", "http://host:80 x@y"},
		{"http://host:80\tx@y", "http://host:80\tx@y"},
		{"http://host:80\nx@y", "http://host:80\nx@y"},
		{`"http://host:80"x@y`, `"http://host:80"x@y`},
		{"'http://host:80'x@y", "'http://host:80'x@y"},
		{"<http://host:80>x@y", "<http://host:80>x@y"},
		{"http://host:80<x@y", "http://host:80<x@y"},
		{"user:key@host", "user:key@host"},
		{"://a:b@c", "://a:***@c"},
		{"::///:b@c:/ :// ://", "::///:b@c:/ :// ://"},
		{"a://b://c:d@e", "a://b://c:***@e"},
		{"https://user:***@host", "https://user:***@host"},
		{"x://", "x://"},
	} {
		for name, r := range map[string]*Redactor{"nil": none, "none": New(), "one": withSecret} {
			if diff := cmp.Diff(tt.want, r.String(tt.in)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
	r := New("keykey", "host.com")
	if got, want := r.String("https://user:a-keykey@host.com keykey"), "https://user:***@*** ***"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEscapeSequences(t *testing.T) {
	r := New("secret", "[0;12345", "cdefgh", "]0;123")
	for _, tt := range []struct{ name, in, want string }{
		{"around", "\x1b[31msecret\x1b[0m", "\x1b[31m***\x1b[0m"},
		{"within", "a sec\x1b[31mret b", "a ***\x1b[31m b"},
		{"between all", "s\x1b[1me\x1b[2mc\x1b[3mr\x1b[4me\x1b[5mt.", "***\x1b[1m\x1b[2m\x1b[3m\x1b[4m\x1b[5m."},
		{"between secrets", "secret\x1b[1msecret", "***\x1b[1m"},
		{"two at once", "sec\x1b[1m\x1b[2mret", "***\x1b[1m\x1b[2m"},
		{"private", "sec\x1b[?25lret", "***\x1b[?25l"},
		{"intermediate", "sec\x1b[1 qret", "***\x1b[1 q"},
		{"title", "sec\x1b]0;title\aret", "***\x1b]0;title\a"},
		{"link", "sec\x1b]8;;http://a/\x1b\\ret", "***\x1b]8;;http://a/\x1b\\"},
		{"two characters", "sec\x1bMr\x1b=et", "***\x1bM\x1b="},
		{"charset", "sec\x1b(Br\x1b)0et", "***\x1b(B\x1b)0"},
		{"device control", "sec\x1bPq#0\x1b\\ret", "***\x1bPq#0\x1b\\"},
		{"string broken off", "sec\x1b]0;x\x1b[1mret", "***\x1b]0;x\x1b[1m"},
		{"in a title", "\x1b]0;a secret.\a", "\x1b]0;a ***.\a"},
		{"in a title within", "sec\x1b]0;secret\aret", "***"},
		{"in a link", "\x1b]8;;https://u:k@h/secret\x1b\\x", "\x1b]8;;https://u:***@h/***\x1b\\x"},
		{"URL within", "https://us\x1b[1mer:k\x1b[2mey@ho", "https://us\x1b[1mer:***\x1b[2m@ho"},
		{"begins with a parameter", "a\x1b[0;12345mb", "a***b"},
		{"begins with a sequence's end", "\x1bcdefgh.", "***."},
		{"unfinished", "secret\x1b", "***\x1b"},
		{"unfinished control", "secret\x1b[3", "***\x1b[3"},
		{"unfinished title", "\x1b]0;secret", "\x1b]0;***"},
		{"no sequence", "sec\x1b\tret", "sec\x1b\tret"},
		{"broken control", "sec\x1b[1éret", "sec\x1b[1éret"},
		{"lone", "sec\x1b\x1b\x1bMret", "***\x1b\x1b\x1bM"},
		{"only", "\x1b[K", "\x1b[K"},
		{"before a title", "secret\x1b]0;secret\a.", "***\x1b]0;***\a."},
		{"begins as a title does", "\x1b]0;123\a.", "***."},
		{"begins after a title broken off", "\x1b]0;x\x1bcdefgh.", "\x1b]0;x***."},
		{"base64", "c2Vj\x1b[KcmV0", "***\x1b[K"},
		{"first line unfinished", "sec\x1b]0;\nret secret", "sec\x1b]0;\nret ***"},
		{"first line unfinished, second not", "\x1b]0;\nsec\x1b[1mret", "\x1b]0;\n***\x1b[1m"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, r.String(tt.in)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestEscapeSequenceBytes has sequences with the lowest and the highest byte that each of their parts can have
// (ECMA-35, 13, and ECMA-48, 5.4), and the bytes beyond, which are not part of a sequence.
func TestEscapeSequenceBytes(t *testing.T) {
	r := New("secret")
	for _, sequence := range []string{
		"\x1b0", "\x1b~", // final bytes
		"\x1b A", "\x1b/A", "\x1b( /A", // intermediate bytes
		"\x1b(0", "\x1b(~",
		"\x1b[@", "\x1b[~",
		"\x1b[0m", "\x1b[?m", // parameters
		"\x1b[ q", "\x1b[/q",
	} {
		if got, want := r.String("sec"+sequence+"ret"), "***"+sequence; got != want {
			t.Errorf("within a secret, %q is no sequence: %q", sequence, got)
		}
	}
	for _, text := range []string{"\x1b\x1f", "\x1b\x7f", "\x1b(\x1f", "\x1b(\x7f", "\x1b[\x1f", "\x1b[\x7f"} {
		if got, want := r.String("sec"+text+"ret"), "sec"+text+"ret"; got != want {
			t.Errorf("within a secret, %q is a sequence: %q", text, got)
		}
	}
}

// wrap returns text in lines of so many characters.
func wrap(text string, column int) (lines []string) {
	for len(text) > column {
		lines = append(lines, text[:column])
		text = text[column:]
	}
	return append(lines, text)
}

// prefixed returns lines as Nix prints those of a build.
func prefixed(lines []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = "name-1.0> " + line
	}
	return out
}

func TestWrapped(t *testing.T) {
	secret := strings.Repeat("0123456789", 6) // 80 characters in base64
	long := strings.Repeat("abcdefghij", 30)  // 400
	r := New(secret, long)
	line := strings.Repeat("/", wrapColumn)
	encoded := wrap(base64.StdEncoding.EncodeToString([]byte(secret)), wrapColumn)
	masks := slices.Repeat([]string{mask}, 7)
	for _, tt := range []struct {
		name      string
		in, wants []string
	}{
		{"two lines", encoded, []string{mask, mask}},
		{"more after", []string{encoded[0], encoded[1] + " more"}, []string{mask, mask + " more"}},
		{"not continued", []string{encoded[0], "x" + encoded[1]}, []string{mask, "x" + encoded[1]}},
		{"line between", []string{encoded[0], "", encoded[1]}, []string{mask, "", encoded[1]}},
		{"many lines", wrap(base64.StdEncoding.EncodeToString([]byte(long)), wrapColumn), masks},
		{"at 76 columns", wrap(base64.StdEncoding.EncodeToString([]byte(long)), 76), masks[1:]},
		{"prefix", []string{"a-1> " + encoded[0], "a-1> " + encoded[1]}, []string{"a-1> " + mask, "a-1> " + mask}},
		{"prefix of a failure", []string{"       > " + encoded[0], "       > " + encoded[1]}, []string{"       > " + mask, "       > " + mask}},
		{"indented", []string{"    " + encoded[0], "    " + encoded[1]}, []string{"    " + mask, "    " + mask}},
		{"prefix, many lines", prefixed(wrap(base64.StdEncoding.EncodeToString([]byte(long)), wrapColumn)), prefixed(masks)},
		{"other prefix", []string{"a-1> " + encoded[0], "a-2> " + encoded[1]}, []string{"a-1> " + mask, "a-2> " + encoded[1]}},
		{"text before", []string{"data: " + encoded[0], encoded[1]}, []string{"data: " + mask, mask}},
		{"coloured", []string{"\x1b[1ma>\x1b[0m " + encoded[0] + "\x1b[K", "\x1b[2ma> \x1b[3m" + encoded[1][:2] + "\x1b[0m" + encoded[1][2:]},
			[]string{"\x1b[1ma>\x1b[0m " + mask + "\x1b[K", "\x1b[2ma> \x1b[3m" + mask + "\x1b[0m"}},
		{"6 at the end", []string{line[6:] + encoded[0][:6], encoded[0][6:] + encoded[1]}, []string{line[6:] + mask, mask}},
		{"6 at the end, after a prefix", []string{"a-1> " + line[6:] + encoded[0][:6], "a-1> " + encoded[0][6:] + encoded[1]}, []string{"a-1> " + line[6:] + mask, "a-1> " + mask}},
		{"5 at the end", []string{line[5:] + encoded[0][:5], encoded[0][5:] + encoded[1]}, []string{line[5:] + encoded[0][:5], mask}},
		{"too short a line", []string{line[7:] + encoded[0][:6], encoded[0][6:] + encoded[1] + "."}, []string{line[7:] + encoded[0][:6], encoded[0][6:] + encoded[1] + "."}},
		{"no run", []string{line[7:] + " " + encoded[0][:6], encoded[0][6:] + encoded[1] + "."}, []string{line[7:] + " " + encoded[0][:6], encoded[0][6:] + encoded[1] + "."}},
		{"all in the second line", []string{line, encoded[0], encoded[1] + line}, []string{line, mask, mask + line}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.wants, redacted(r, tt.in...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			state := r.Lines()
			for i, line := range tt.in {
				if got := string(state.AppendLines(nil, []byte(line+"\n"))); got != tt.wants[i]+"\n" {
					t.Errorf("AppendLines: got %q, want %q", got, tt.wants[i]+"\n")
				}
			}
			all := strings.Join(tt.in, "\r\n")
			if diff := cmp.Diff(strings.Join(tt.wants, "\r\n"), r.String(all)); diff != "" {
				t.Errorf("String (-want +got):\n%s", diff)
			}
		})
	}
}

// A secret continues after a line with colours, on a line of which only that part is a secret.
func TestWrappedAfterColours(t *testing.T) {
	const secret = "correct horse battery staple, and more words than fit in a line of base64"
	encoded := wrap(base64.StdEncoding.EncodeToString([]byte(secret)), wrapColumn)
	state := New(secret).Lines()
	for _, test := range [][2]string{{"\x1b[1m" + encoded[0], "\x1b[1m" + mask}, {encoded[1], mask}} {
		if got := string(state.AppendLines(nil, []byte(test[0]+"\n"))); got != test[1]+"\n" {
			t.Errorf("got %q, want %q", got, test[1]+"\n")
		}
	}
}

// The prefix of a line is a name and "> ", or only indentation.
func TestBuildPrefix(t *testing.T) {
	name := strings.Repeat("n", maxPrefix-2)
	for text, want := range map[string]string{
		"": "", "text": "", "a-1.2_?=+> text": "a-1.2_?=+> ", "  > text": "  > ", "    text": "    ", "a b> text": "", "  a b> text": "  ", "a>text": "", "a/b> text": "",
		name + "> text": name + "> ", name + "n> text": "", strings.Repeat(" ", maxPrefix) + "text": strings.Repeat(" ", maxPrefix),
		strings.Repeat(" ", maxPrefix+1) + "text": "",
	} {
		if got := string(buildPrefix([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// What base64(1) or OpenSSL makes of a file with a key in it shows at most 5 characters of the
// key in a row, where lines end, for any place of the key in the file.
func TestWrappedFile(t *testing.T) {
	rng := seeded(4)
	for before := range 100 {
		key := randomText(rng, tokenChars, minSecret+3*before)
		file := string(randomBytes(rng, before)) + key + "\xff" + string(randomBytes(rng, rng.IntN(100)))
		encoded := base64.StdEncoding.EncodeToString([]byte(file))
		start, end := (before*8+5)/6, (before+len(key))*8/6
		column := []int{64, 76}[before%2] // of OpenSSL, and of base64(1) and MIME
		for i, got := range redacted(New(key), wrap(encoded, column)...) {
			first, next := i*column, min((i+1)*column, len(encoded))
			from, to := max(start, first), min(end, next)
			goesOn := next < end
			want := encoded[first:next]
			if from < to && (!goesOn || to-start >= minSecret) {
				want = encoded[first:from] + mask + encoded[to:next]
			}
			if got != want {
				t.Errorf("%d before, line %d: got %s, want %s", before, i, got, want)
			}
		}
	}
}

// A private key's automaton takes less than 4 MiB.
func TestSize(t *testing.T) {
	a := New(privateKey(seeded(1), 52)).automaton()
	size := cap(a.nodes)*16 + cap(a.labels) + 4*len(a.starts) + len(a.grams)
	t.Logf("%d nodes, %d KiB", len(a.nodes), size>>10)
	if size > 4<<20 {
		t.Errorf("%d nodes take %d KiB", len(a.nodes), size>>10)
	}
}

// TestShrink frees the memory of a redactor between two lines, in the middle of a secret.
func TestShrink(t *testing.T) {
	key := privateKey(seeded(1), 52)
	lines := wrap(base64.StdEncoding.EncodeToString([]byte(key)), 76)
	want := redacted(New(key), lines...)
	r := New(key)
	state := r.Lines()
	for i, line := range lines {
		r.Shrink()
		if r.forms.Load() != nil {
			t.Fatal("it keeps its automaton")
		}
		if got := string(state.Append(nil, []byte(line), false)); got != want[i] {
			t.Errorf("line %d: got %s, want %s", i, got, want[i])
		}
	}
	if r.forms.Load() == nil {
		t.Error("it makes its automaton for each line")
	}
	if r := New("short"); r.secrets != nil {
		t.Error("it makes an automaton of nothing for each line")
	}
}

func TestNoFalseMask(t *testing.T) {
	const size = 20 << 20
	rng := seeded(5)
	state := New(append(tokens(rng, 50), privateKey(rng, 52))...).Lines()
	lines := nixLog(rng, size/10)
	var out []byte
	for range 10 {
		for _, line := range lines {
			out = state.Append(out[:0], []byte(line), false)
			if string(out) != line {
				t.Fatalf("got %q for %q", out, line)
			}
		}
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	state := New("secret", "hidden", strings.Repeat("long", 30)).Lines()
	var lines [][]byte
	for _, line := range []string{
		"a secret and a hidden secret", "https://user:key@host", "sec\x1b[0mret \x1b]0;secret\a",
		strings.Repeat("long", 20), strings.Repeat("long", 10), strings.Repeat("x", 1000),
	} {
		lines = append(lines, []byte(line))
	}
	var out []byte
	allocs := testing.AllocsPerRun(100, func() {
		out = out[:0]
		for i, line := range lines {
			out = state.Append(out, line, i%2 == 0)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations for %d lines", allocs, len(lines))
	}
}

// A line of nothing but escape sequences takes no more memory than another.
func TestLineOfEscapeSequences(t *testing.T) {
	var state escapeState
	if got := state.sequences(nil, []byte(strings.Repeat("\x1b[1m\x1b\x1bM\x1b(B", 1000))); len(got) != 1 {
		t.Errorf("got %d sequences, want 1", len(got))
	}
}

// The buffers of a long line are given back after it. A job has hundreds of streams, one for each derivation, and decides
// what is in their lines.
func TestLongLineLeavesNothing(t *testing.T) {
	const most = 64 << 10 // bytes, for each stream
	for _, text := range []string{"\x1b[0msecret https://u:k@h\x1b]0;secret\a", "\x1b[mX", "://a:b@", "\x1b[m://a:b@"} {
		for length := 1 << 8; length <= 1<<20; length *= 2 {
			l := New("secret").Lines()
			l.Append(nil, []byte(strings.Repeat(text, length/len(text))), false)
			l.Append(nil, []byte("short"), false)
			kept := cap(l.scratch.text) + cap(l.scratch.escapes)*int(unsafe.Sizeof(escape{}))
			for _, spans := range [][]span{l.scratch.whole, l.scratch.both, l.scratch.all, l.visible.found, l.visible.resumed, l.visible.keys,
				l.visible.forms, l.visible.all, l.raw.found, l.raw.resumed, l.raw.keys, l.raw.forms, l.raw.all} {
				kept += cap(spans) * int(unsafe.Sizeof(span{}))
			}
			if kept > most {
				t.Errorf("%d bytes are kept after a line of %d bytes of %q", kept, length, text)
			}
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	r := New("secret", "hidden")
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for range 100 {
				if got := r.String("a secret"); got != "a ***" {
					t.Errorf("got %q", got)
				}
				if got := redacted(r, "hidden"); got[0] != mask {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	users.Wait()
}
