package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// checkDocument returns nil if data is exactly one JSON document in UTF-8 in which no object has two properties
// of the same name. With such properties, one parser would use the first and another the last, and they
// would see different jobs.
func checkDocument(data []byte) *Refusal {
	malformed := func(at int, why string) *Refusal {
		return &Refusal{kind: notJSON, problems: []problem{{why: position(data, at) + ": " + why}}}
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return &Refusal{kind: notJSON, problems: []problem{{why: "the message is empty, or no text"}}}
	}
	if !utf8.Valid(data) {
		return malformed(invalidUTF8(data), "not UTF-8")
	}
	if bytes.HasPrefix(data, byteOrderMark) { // JSON has none: RFC 8259, section 8.1
		return malformed(0, "a byte order mark is before the JSON; save the text as UTF-8 without one")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		at := len(data) // if the text ends too early, no byte is wrong
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && syntax.Error() != unexpectedEnd {
			at = int(syntax.Offset) - 1
		}
		return malformed(at, err.Error())
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // numbers are not read here, so any size is valid
	if !hasUniqueNames(dec) {
		return malformed(int(dec.InputOffset())-1, "the second property of this name in one object")
	}
	return nil
}

// byteOrderMark is U+FEFF, which editors of Windows write at the beginning of a file in UTF-8.
var byteOrderMark = []byte("\ufeff")

// unexpectedEnd is the message of encoding/json for a text that ends too early.
const unexpectedEnd = "unexpected end of JSON input"

// invalidUTF8 returns the offset of the first byte that is not UTF-8.
func invalidUTF8(data []byte) (at int) {
	for at < len(data) {
		r, size := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		at += size
	}
	return at
}

// position describes an offset in a text, for people. Both numbers begin with 1, and the column is counted in
// characters.
func position(data []byte, at int) string {
	before := data[:min(at, len(data))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Sprintf("line %d, column %d", line, column)
}

// hasUniqueNames reads the next value of dec, which must be valid JSON, and reports whether no object in it has
// two properties of the same name.
func hasUniqueNames(dec *json.Decoder) bool {
	token, err := dec.Token()
	if err != nil {
		return false
	}
	open, nested := token.(json.Delim)
	if !nested {
		return true
	}
	seen := make(map[string]bool)
	for dec.More() {
		if open == '{' {
			name, err := dec.Token()
			if err != nil || seen[name.(string)] {
				return false
			}
			seen[name.(string)] = true
		}
		if !hasUniqueNames(dec) {
			return false
		}
	}
	_, err = dec.Token() // the closing brace or bracket
	return err == nil
}
