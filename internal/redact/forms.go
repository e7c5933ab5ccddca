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

// appendForms appends the forms in which secret is looked for, with repetitions.
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

// isArmour tells whether line is one around a key as of RFC 7468. A key that has lost
// its line ends starts and ends like one.
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
	return appendJSON(forms, s)
}

// appendBase64 appends what s looks like within the base64 encoding of a text that
// has it at its start, middle or end, for any number of bytes before it.
func appendBase64(forms []string, s string) []string {
	for before := range 3 {
		text := append(make([]byte, before), s...)
		// A character is 6 bits. Those with bits of the text around s are not of s.
		start, end := (before*8+5)/6, len(text)*8/6
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			atEnd := encoding.EncodeToString(text)[start:]
			forms = append(forms, atEnd[:end-start], strings.TrimRight(atEnd, "="), atEnd)
		}
	}
	return forms
}

// appendPercent appends the percent-encodings of s as of RFC 3986, and those of Go,
// which keep a few more characters in a path and write a space as + in a query.
func appendPercent(forms []string, s string) []string {
	return append(forms, percent(s, "%%%02X"), percent(s, "%%%02x"), url.QueryEscape(s), url.PathEscape(s))
}

func percent(s, format string) string {
	var out strings.Builder
	for i := range len(s) {
		if isUnreserved[s[i]] {
			out.WriteByte(s[i])
		} else {
			fmt.Fprintf(&out, format, s[i])
		}
	}
	return out.String()
}

// isUnreserved is as of RFC 3986, section 2.3.
var isUnreserved = bytesOf("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

// appendJSON appends the JSON strings for s of the common encoders: Go's, with and
// without escapes for HTML, and those that write ASCII only, as Python's. Each may
// also escape the slash, as PHP's does.
func appendJSON(forms []string, s string) []string {
	plain := jsonString(s, false)
	for _, form := range []string{plain, jsonString(s, true), ascii(plain, `\u%04x`), ascii(plain, `\u%04X`)} {
		forms = append(forms, form, strings.ReplaceAll(form, "/", `\/`))
	}
	return forms
}

// jsonString returns what stands between the quotes.
func jsonString(s string, escapeHTML bool) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(escapeHTML)
	if err := encoder.Encode(s); err != nil {
		panic(err) // a string always has an encoding, and the buffer takes it
	}
	return strings.Trim(out.String(), "\n")[1 : out.Len()-2]
}

// ascii escapes all that is not printable ASCII as UTF-16, of which a rune may take
// two.
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
