package schemas

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/qri-io/jsonschema"
)

// A decoder makes a Request from a job's JSON, and adds to a Refusal where the JSON does not match the
// published schema.
type decoder struct{ refusal *Refusal }

// decodeJob makes a Request from a job's properties. It checks them against the format's schema, and adds
// what is wrong to the Refusal.
func (d decoder) decodeJob(top map[string]json.RawMessage) *Request {
	if d.refusal.format == Document {
		var request Request
		d.decodeKnown(top, documentProperties, &request, requestSchema())
		return &request
	}
	var stack stackRequest
	d.decodeKnown(top, stackProperties, &stack, stackRequestSchema())
	return stack.request()
}

// decodeKnown fills into from the properties in names. The schemas allow other properties at the top. They are
// ignored, but if a property is missing and another has a similar name, the Refusal says so.
func (d decoder) decodeKnown(top map[string]json.RawMessage, names []string, into any, schema *jsonschema.Schema) {
	known := make(map[string]json.RawMessage, len(names))
	for _, name := range names {
		if raw, ok := top[name]; ok {
			known[name] = raw
		}
	}
	d.decode(known, "", reflect.ValueOf(into).Elem())
	for i, p := range d.refusal.problems {
		if _, there := top[p.path]; !there && slices.Contains(names, p.path) && hasSimilar(top, p.path) {
			d.refusal.problems[i].why += "; the job has a property whose name is nearly that"
		}
	}
	if len(d.refusal.problems) == 0 {
		d.matchSchema(schema, known)
	}
}

// decode fills into from the properties of an object, and adds what is wrong with them to the Refusal. It is
// stricter than encoding/json, which ignores the case of names, accepts null for any type and accepts missing
// properties: a name must be exactly that of a field's json tag, a value must have the field's type, and
// fields tagged wire:"required" must be present.
//
// A struct with a field tagged wire:"open" accepts any other property as well.
func (d decoder) decode(properties map[string]json.RawMessage, path string, into reflect.Value) {
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
			d.decodeValue(raw, dot(path, name), into.Field(i))
		case field.Tag.Get("wire") == "required":
			d.refusal.schemaError(dot(path, name), "is missing")
		}
	}
	if open {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if !slices.Contains(known, name) {
			// The client has chosen the name, which may even be a misplaced secret: the
			// message says only where it is.
			d.refusal.schemaError(path, "has a property that the schema does not know"+didYouMean(name, known))
		}
	}
}

func (d decoder) decodeValue(raw json.RawMessage, path string, into reflect.Value) {
	switch into.Kind() {
	case reflect.Struct:
		var properties map[string]json.RawMessage
		if raw[0] != '{' || json.Unmarshal(raw, &properties) != nil {
			d.refusal.schemaError(path, "must be an object")
			return
		}
		d.decode(properties, path, into)
	case reflect.Bool:
		if json.Unmarshal(raw, into.Addr().Interface()) != nil || raw[0] == 'n' {
			d.refusal.schemaError(path, "must be true or false")
		}
	case reflect.String:
		if raw[0] != '"' || json.Unmarshal(raw, into.Addr().Interface()) != nil {
			d.refusal.schemaError(path, "must be a string")
		}
	case reflect.Slice:
		d.decodeSlice(raw, path, into)
	case reflect.Map:
		d.decodeTexts(raw, path, into)
	case reflect.Float64: // a number that the builder does not use
		switch c := raw[0]; {
		case c != '-' && (c < '0' || c > '9'):
			d.refusal.schemaError(path, errNotNumber.Error())
		case json.Unmarshal(raw, into.Addr().Interface()) != nil:
			d.refusal.valueError(path, "is too large a number")
		}
	case reflect.Pointer:
		d.decodeOptional(raw, path, into)
	}
}

// decodeOptional decodes a boolean or a whole number into a pointer, which is nil if there is none.
func (d decoder) decodeOptional(raw json.RawMessage, path string, into reflect.Value) {
	switch value := reflect.New(into.Type().Elem()); number := value.Interface().(type) {
	case *bool:
		d.decodeValue(raw, path, value.Elem())
		into.Set(value)
	case *Integer:
		switch err := number.UnmarshalJSON(raw); {
		case errors.Is(err, errNotNumber):
			d.refusal.schemaError(path, err.Error())
		case err != nil:
			d.refusal.valueError(path, err.Error())
		default:
			into.Set(value)
		}
	}
}

// decodeSlice decodes an array of strings or objects.
func (d decoder) decodeSlice(raw json.RawMessage, path string, into reflect.Value) {
	begin, what := byte('"'), "strings"
	if into.Type().Elem().Kind() == reflect.Struct {
		begin, what = '{', "objects"
	}
	var items []json.RawMessage
	isItem := func(item json.RawMessage) bool { return item[0] == begin }
	if raw[0] != '[' || json.Unmarshal(raw, &items) != nil || !all(items, isItem) {
		d.refusal.schemaError(path, "must be an array of "+what)
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(items), len(items)))
	for i, item := range items {
		d.decodeValue(item, path, into.Index(i))
	}
}

// decodeTexts decodes an object with any names and with strings as values.
func (d decoder) decodeTexts(raw json.RawMessage, path string, into reflect.Value) {
	var properties map[string]json.RawMessage
	isText := func(value json.RawMessage) bool { return value[0] == '"' }
	if raw[0] != '{' || json.Unmarshal(raw, &properties) != nil || !all(slices.Collect(maps.Values(properties)), isText) ||
		json.Unmarshal(raw, into.Addr().Interface()) != nil {
		d.refusal.schemaError(path, "must be an object of strings")
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

// The published schemas, compiled on their first use. jsonschema builds parts of a schema in the first
// validation, which is a data race, so compiled validates once.
var (
	requestSchema      = compiled(RequestSchema)
	stackRequestSchema = compiled(StackRequestSchema)
)

func compiled(text []byte) func() *jsonschema.Schema {
	return sync.OnceValue(func() *jsonschema.Schema {
		schema := jsonschema.Must(string(text))
		schema.Validate(context.Background(), map[string]any{})
		return schema
	})
}

// matchSchema validates the known properties against a published schema. decode has already refused
// everything that the schema refuses, with better messages. If the two ever differ, the published schema
// decides.
func (d decoder) matchSchema(schema *jsonschema.Schema, known map[string]json.RawMessage) {
	document := make(map[string]any, len(known))
	for name, raw := range known {
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			d.refusal.schemaError(name, "cannot be read")
			return
		}
		document[name] = value
	}
	state := schema.Validate(context.Background(), document)
	if len(*state.Errs) == 0 {
		return
	}
	// The library's messages contain the value: use only the path.
	path := strings.ReplaceAll(strings.Trim((*state.Errs)[0].PropertyPath, "/"), "/", ".")
	d.refusal.schemaError(path, "does not match the schema")
}
