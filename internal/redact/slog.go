package redact

import (
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
)

// Handler returns a handler that masks secrets before it calls h: in messages, and in the values of attributes of
// any type. If any text as which a value may be printed has a secret, the value is replaced by a string.
func (r *Redactor) Handler(h slog.Handler) slog.Handler {
	return handler{r, h}
}

type handler struct {
	redactor *Redactor
	next     slog.Handler
}

func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h handler) Handle(ctx context.Context, record slog.Record) error {
	safe := slog.NewRecord(record.Time, record.Level, h.redactor.String(record.Message), record.PC)
	record.Attrs(func(attr slog.Attr) bool {
		safe.AddAttrs(h.redactor.attr(attr))
		return true
	})
	return h.next.Handle(ctx, safe)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.redactor, h.next.WithAttrs(h.redactor.attrs(attrs))}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.redactor, h.next.WithGroup(name)}
}

func (r *Redactor) attrs(attrs []slog.Attr) []slog.Attr {
	safe := make([]slog.Attr, len(attrs))
	for i, attr := range attrs {
		safe[i] = r.attr(attr)
	}
	return safe
}

func (r *Redactor) attr(attr slog.Attr) slog.Attr {
	switch value := attr.Value.Resolve(); value.Kind() {
	case slog.KindString:
		attr.Value = slog.StringValue(r.String(value.String()))
	case slog.KindGroup:
		attr.Value = slog.GroupValue(r.attrs(value.Group())...)
	case slog.KindAny:
		attr.Value = r.any(value)
	default:
		attr.Value = value
	}
	return attr
}

// any returns value if none of the texts that handlers may print for it has a secret. Otherwise it returns the first
// such text, redacted.
func (r *Redactor) any(value slog.Value) slog.Value {
	v := value.Any()
	var texts []string
	switch v := v.(type) {
	case []byte:
		texts = append(texts, string(v))
	case encoding.TextMarshaler:
		texts = append(texts, made(v.MarshalText))
	}
	texts = append(texts, fmt.Sprint(v), fmt.Sprintf("%+v", v), made(func() ([]byte, error) { return json.Marshal(v) }))
	for _, text := range texts {
		if safe := r.String(text); safe != text {
			return slog.StringValue(safe)
		}
	}
	return value
}

// made returns the result of marshal, or "" if it fails or panics: the handler h will have the same problem with the
// value.
func made(marshal func() ([]byte, error)) (text string) {
	defer func() {
		if recover() != nil {
			text = ""
		}
	}()
	data, err := marshal()
	if err != nil {
		return ""
	}
	return string(data)
}
