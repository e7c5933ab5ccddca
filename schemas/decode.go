package schemas

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/qri-io/jsonschema"
)

// checkDocument returns what is wrong with data unless it is exactly one JSON document in
// UTF-8 whose objects name each property once. A parser that takes the last of two equal
// names and one that takes the first would see two different jobs.
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
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		at := len(data) // where it ends too early, there is no byte that is wrong
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && syntax.Error() != unexpectedEnd {
			at = int(syntax.Offset) - 1
		}
		return malformed(at, err.Error())
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // a number is only passed over here, whatever its size
	if !hasUniqueNames(dec) {
		return malformed(int(dec.InputOffset())-1, "the second property of this name in one object")
	}
	return nil
}

// unexpectedEnd is what encoding/json says of a text that ends too early.
const unexpectedEnd = "unexpected end of JSON input"

// invalidUTF8 returns where the first byte is that is not UTF-8.
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

// position tells people where a byte of a text is. Both numbers begin with 1, and the column
// is counted in characters.
func position(data []byte, at int) string {
	before := data[:min(at, len(data))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Sprintf("line %d, column %d", line, column)
}

// hasUniqueNames reads the next value of dec, which is known to be valid JSON.
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

// decode fills into from the properties of an object, and notes in r what is wrong with
// them. It is stricter than encoding/json, which ignores the case of names, takes null for
// anything and lets a missing property pass: a name is the name of exactly one field's json
// tag, a value has the field's type, and fields tagged wire:"required" are there.
//
// A struct with a field tagged wire:"open" takes any other property as well.
func (r *Refusal) decode(properties map[string]json.RawMessage, path string, into reflect.Value) {
	var known []string
	open := false
	for i := range into.NumField() {
		field := into.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" { // no property
			open = open || field.Tag.Get("wire") == "open"
			continue
		}
		known = append(known, name)
		raw, present := properties[name]
		switch {
		case present:
			r.decodeValue(raw, dot(path, name), into.Field(i))
		case field.Tag.Get("wire") == "required":
			r.badShape(dot(path, name), "is missing")
		}
	}
	if open {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if !slices.Contains(known, name) {
			// The name is the client's own and may be anything, a secret that
			// was put in the wrong place included: only its place is told.
			r.badShape(path, "has a property that the schema does not know"+didYouMean(name, known))
		}
	}
}

func (r *Refusal) decodeValue(raw json.RawMessage, path string, into reflect.Value) {
	switch into.Kind() {
	case reflect.Struct:
		var properties map[string]json.RawMessage
		if raw[0] != '{' || json.Unmarshal(raw, &properties) != nil {
			r.badShape(path, "must be an object")
			return
		}
		r.decode(properties, path, into)
	case reflect.Bool:
		if json.Unmarshal(raw, into.Addr().Interface()) != nil || raw[0] == 'n' {
			r.badShape(path, "must be true or false")
		}
	case reflect.String:
		if raw[0] != '"' || json.Unmarshal(raw, into.Addr().Interface()) != nil {
			r.badShape(path, "must be a string")
		}
	case reflect.Slice:
		r.decodeSlice(raw, path, into)
	case reflect.Map:
		r.decodeTexts(raw, path, into)
	case reflect.Float64: // a number of no concern
		switch c := raw[0]; {
		case c != '-' && (c < '0' || c > '9'):
			r.badShape(path, errNotNumber.Error())
		case json.Unmarshal(raw, into.Addr().Interface()) != nil:
			r.brokenRule(path, "is too large a number")
		}
	case reflect.Pointer:
		r.decodeOptional(raw, path, into)
	}
}

// decodeOptional decodes a value of which it matters whether it is there: a boolean or a
// whole number.
func (r *Refusal) decodeOptional(raw json.RawMessage, path string, into reflect.Value) {
	switch value := reflect.New(into.Type().Elem()); number := value.Interface().(type) {
	case *bool:
		r.decodeValue(raw, path, value.Elem())
		into.Set(value)
	case *Whole:
		switch err := number.UnmarshalJSON(raw); {
		case errors.Is(err, errNotNumber):
			r.badShape(path, err.Error())
		case err != nil:
			r.brokenRule(path, err.Error())
		default:
			into.Set(value)
		}
	}
}

// decodeSlice decodes an array of strings or objects.
func (r *Refusal) decodeSlice(raw json.RawMessage, path string, into reflect.Value) {
	begin, what := byte('"'), "strings"
	if into.Type().Elem().Kind() == reflect.Struct {
		begin, what = '{', "objects"
	}
	var items []json.RawMessage
	isItem := func(item json.RawMessage) bool { return item[0] == begin }
	if raw[0] != '[' || json.Unmarshal(raw, &items) != nil || !all(items, isItem) {
		r.badShape(path, "must be an array of "+what)
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(items), len(items)))
	for i, item := range items {
		r.decodeValue(item, path, into.Index(i))
	}
}

// decodeTexts decodes an object whose names are the client's own, and whose values are strings.
func (r *Refusal) decodeTexts(raw json.RawMessage, path string, into reflect.Value) {
	var properties map[string]json.RawMessage
	isText := func(value json.RawMessage) bool { return value[0] == '"' }
	if raw[0] != '{' || json.Unmarshal(raw, &properties) != nil || !all(slices.Collect(maps.Values(properties)), isText) ||
		json.Unmarshal(raw, into.Addr().Interface()) != nil {
		r.badShape(path, "must be an object of strings")
	}
}

func all(items []json.RawMessage, ok func(json.RawMessage) bool) bool {
	return !slices.ContainsFunc(items, func(item json.RawMessage) bool { return !ok(item) })
}

func dot(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// The published schemas, compiled. jsonschema builds parts of a schema on its first use and
// would race there, so each is used once here.
var (
	requestSchema      = compiled(RequestSchema)
	stackRequestSchema = compiled(StackRequestSchema)
)

func compiled(text []byte) *jsonschema.Schema {
	schema := jsonschema.Must(string(text))
	schema.Validate(context.Background(), map[string]any{})
	return schema
}

// matchSchema holds the known properties against a published schema. decode has refused
// all that the schema refuses, in words fit for a client; this is the published contract's
// own verdict, and it stands where the two should differ.
func (r *Refusal) matchSchema(schema *jsonschema.Schema, known map[string]json.RawMessage) {
	document := make(map[string]any, len(known))
	for name, raw := range known {
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			r.badShape(name, "cannot be read")
			return
		}
		document[name] = value
	}
	state := schema.Validate(context.Background(), document)
	if len(*state.Errs) == 0 {
		return
	}
	// The library's messages print the offending value: only the path is told.
	path := strings.ReplaceAll(strings.Trim((*state.Errs)[0].PropertyPath, "/"), "/", ".")
	r.badShape(path, "does not match the schema")
}
