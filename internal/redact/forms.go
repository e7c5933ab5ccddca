package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf16"
)

// appendForms appends the forms of a secret that are searched for, perhaps with duplicates.
func appendForms(forms []string, secret string) []string {
	secret = strings.TrimSpace(secret)
	if len(secret) < minSecret {
		return forms
	}
	lines := strings.FieldsFunc(secret, func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) > 1 {
		forms = appendEncodings(forms, secret)
	}
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if len(line) >= minSecret && !isArmour(line) {
			forms = appendEncodings(append(forms, line), line)
		}
	}
	return forms
}

// isArmour reports whether a line is the BEGIN or END line of a key (RFC 7468). A key that has lost its line
// ends starts and ends like one.
func isArmour(line string) bool {
	const dashes = "-----"
	return (strings.HasPrefix(line, dashes+"BEGIN ") || strings.HasPrefix(line, dashes+"END ")) &&
		strings.HasSuffix(line, dashes) && strings.Count(line, dashes) == 2
}

func appendEncodings(forms []string, s string) []string {
	lower := hex.EncodeToString([]byte(s))
	forms = append(forms, lower, strings.ToUpper(lower))
	forms = appendBase64(forms, s)
	forms = appendPercent(forms, s)
	forms = appendShell(forms, s)
	return appendJSON(forms, s)
}

// appendBase64 appends the base64 of s within a longer text, for s at the start, in the middle and at the end,
// and for any number of bytes before it.
func appendBase64(forms []string, s string) []string {
	for before := range 3 {
		text := append(make([]byte, before), s...)
		// A character has 6 bits. Characters that also have bits of the text around s are omitted.
		start, end := (before*8+5)/6, len(text)*8/6
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			atEnd := encoding.EncodeToString(text)[start:]
			forms = append(forms, atEnd[:end-start], strings.TrimRight(atEnd, "="), atEnd)
		}
	}
	return forms
}

// appendPercent appends the percent-encodings of s: those of RFC 3986, those of Go, and those of Python's quote,
// JavaScript's encodeURIComponent, and forms (https://url.spec.whatwg.org), which differ in what they do not encode. In
// forms and in Go's queries a space is a +.
func appendPercent(forms []string, s string) []string {
	const upper, lower = "0123456789ABCDEF", "0123456789abcdef"
	return append(forms, percent(s, upper, &isUnreserved), percent(s, lower, &isUnreserved), url.QueryEscape(s), url.PathEscape(s),
		percent(s, upper, &quoteKeeps), percent(s, upper, &componentKeeps), strings.ReplaceAll(percent(s, upper, &formKeeps), "%20", "+"))
}

// percent returns s with all bytes encoded that kept does not have.
func percent(s, digits string, kept *[256]bool) string {
	var out strings.Builder
	for i := range len(s) {
		if kept[s[i]] {
			out.WriteByte(s[i])
		} else {
			out.Write([]byte{'%', digits[s[i]>>4], digits[s[i]&15]})
		}
	}
	return out.String()
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

var (
	// isUnreserved has the unreserved characters of RFC 3986, section 2.3.
	isUnreserved   = bytesOf(alphanumeric + "-._~")
	quoteKeeps     = bytesOf(alphanumeric + "-._~/")
	componentKeeps = bytesOf(alphanumeric + "-._~!'()*")
	formKeeps      = bytesOf(alphanumeric + "-._*")
)

// appendShell appends s as shells quote it when they trace commands (set -x) or list variables (export -p): within
// single quotes in two ways, within double quotes, within $'…', and with backslashes only, as bash's printf %q. It
// does not append what they print for a control character.
func appendShell(forms []string, s string) []string {
	const double, ansiC, special = "\"$\\`", `'\`, " !\"$&'()*,;<>?[\\]^`{|}"
	return append(forms, strings.ReplaceAll(s, "'", `'\''`), strings.ReplaceAll(s, "'", `'"'"'`),
		backslashed(s, double), backslashed(s, ansiC), backslashed(s, special))
}

// backslashed returns s with a backslash before each of some ASCII characters.
func backslashed(s, chars string) string {
	var out strings.Builder
	for i := range len(s) {
		if strings.IndexByte(chars, s[i]) >= 0 {
			out.WriteByte('\\')
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// appendJSON appends the JSON strings for s of the common encoders: Go's, with and without escapes for HTML,
// and those that write only ASCII, such as Python's. Each form is also added with escaped slashes, as PHP
// writes them.
func appendJSON(forms []string, s string) []string {
	plain := jsonString(s, false)
	for _, form := range []string{plain, jsonString(s, true), ascii(plain, `\u%04x`), ascii(plain, `\u%04X`)} {
		forms = append(forms, form, strings.ReplaceAll(form, "/", `\/`))
	}
	return forms
}

// jsonString returns the JSON string for s without the quotes.
func jsonString(s string, escapeHTML bool) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(escapeHTML)
	if err := encoder.Encode(s); err != nil {
		panic(err) // encoding a string into a buffer never fails
	}
	return strings.Trim(out.String(), "\n")[1 : out.Len()-2]
}

// ascii escapes everything except printable ASCII as UTF-16. A rune may need two units.
func ascii(s, format string) string {
	var out strings.Builder
	for _, r := range s {
		if r >= ' ' && r <= '~' {
			out.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&out, format, unit)
		}
	}
	return out.String()
}
