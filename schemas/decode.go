package schemas

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/qri-io/jsonschema"
)

// isOneDocument reports whether data is exactly one JSON document in UTF-8 whose
// objects name each property once. A parser that takes the last of two equal names
// and one that takes the first would see two different jobs.
func isOneDocument(data []byte) bool {
	if !utf8.Valid(data) || !json.Valid(data) {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // a number is only passed over here, whatever its size
	return hasUniqueNames(dec)
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
	return err == nil || err == io.EOF
}

// decode fills into from the properties of an object. It is stricter than
// encoding/json, which ignores the case of names, takes null for anything and lets
// a missing property pass: a name is the name of exactly one field's json tag, a
// value has the field's type, and fields tagged wire:"required" are there.
//
// A struct with a field tagged wire:"open" takes any other property as well.
func decode(properties map[string]json.RawMessage, into any) *Refusal {
	return decodeObject(properties, "", reflect.ValueOf(into).Elem())
}

func decodeObject(properties map[string]json.RawMessage, path string, into reflect.Value) *Refusal {
	known := make(map[string]bool)
	open := false
	for i := range into.NumField() {
		field := into.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" { // no property
			open = open || field.Tag.Get("wire") == "open"
			continue
		}
		known[name] = true
		raw, present := properties[name]
		if !present {
			if field.Tag.Get("wire") == "required" {
				return badShape(dot(path, name), "is missing")
			}
			continue
		}
		if refusal := decodeValue(raw, dot(path, name), into.Field(i)); refusal != nil {
			return refusal
		}
	}
	for name := range properties {
		if !known[name] && !open {
			// The name is the client's own and may be anything, a secret that
			// was put in the wrong place included: only its place is told.
			return badShape(path, "has a property that the schema does not know")
		}
	}
	return nil
}

func decodeValue(raw json.RawMessage, path string, into reflect.Value) *Refusal {
	switch into.Kind() {
	case reflect.Struct:
		var properties map[string]json.RawMessage
		if raw[0] != '{' || json.Unmarshal(raw, &properties) != nil {
			return badShape(path, "must be an object")
		}
		return decodeObject(properties, path, into)
	case reflect.Bool:
		if json.Unmarshal(raw, into.Addr().Interface()) != nil || raw[0] == 'n' {
			return badShape(path, "must be true or false")
		}
	case reflect.String:
		if raw[0] != '"' || json.Unmarshal(raw, into.Addr().Interface()) != nil {
			return badShape(path, "must be a string")
		}
	case reflect.Slice:
		return decodeSlice(raw, path, into)
	case reflect.Float64: // a number of no concern
		switch c := raw[0]; {
		case c != '-' && (c < '0' || c > '9'):
			return badShape(path, errNotNumber.Error())
		case json.Unmarshal(raw, into.Addr().Interface()) != nil:
			return brokenRule(path, "is too large a number")
		}
	case reflect.Pointer:
		return decodeOptional(raw, path, into)
	}
	return nil
}

// decodeOptional decodes a value of which it matters whether it is there: a boolean or a
// whole number.
func decodeOptional(raw json.RawMessage, path string, into reflect.Value) *Refusal {
	switch value := reflect.New(into.Type().Elem()); number := value.Interface().(type) {
	case *bool:
		if refusal := decodeValue(raw, path, value.Elem()); refusal != nil {
			return refusal
		}
		into.Set(value)
	case *Whole:
		switch err := number.UnmarshalJSON(raw); {
		case errors.Is(err, errNotNumber):
			return badShape(path, err.Error())
		case err != nil:
			return brokenRule(path, err.Error())
		}
		into.Set(reflect.ValueOf(number))
	}
	return nil
}

// decodeSlice decodes an array of strings or objects.
func decodeSlice(raw json.RawMessage, path string, into reflect.Value) *Refusal {
	begin, what := byte('"'), "strings"
	if into.Type().Elem().Kind() == reflect.Struct {
		begin, what = '{', "objects"
	}
	var items []json.RawMessage
	isItem := func(item json.RawMessage) bool { return item[0] == begin }
	if raw[0] != '[' || json.Unmarshal(raw, &items) != nil || !all(items, isItem) {
		return badShape(path, "must be an array of "+what)
	}
	into.Set(reflect.MakeSlice(into.Type(), len(items), len(items)))
	for i, item := range items {
		if refusal := decodeValue(item, path, into.Index(i)); refusal != nil {
			return refusal
		}
	}
	return nil
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
func matchSchema(schema *jsonschema.Schema, known map[string]json.RawMessage) *Refusal {
	document := make(map[string]any, len(known))
	for name, raw := range known {
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			return badShape(name, "cannot be read")
		}
		document[name] = value
	}
	state := schema.Validate(context.Background(), document)
	if len(*state.Errs) == 0 {
		return nil
	}
	// The library's messages print the offending value: only the path is told.
	path := strings.ReplaceAll(strings.Trim((*state.Errs)[0].PropertyPath, "/"), "/", ".")
	return badShape(path, "does not match the schema")
}
