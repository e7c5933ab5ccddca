package redact

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/google/go-cmp/cmp"
)

type stringer struct{ id int }

func (s stringer) String() string { return fmt.Sprintf("%d of secret", s.id) }

type broken struct{ N int }

func (b *broken) Error() string                { return fmt.Sprint("secret", b.N) }
func (b *broken) MarshalText() ([]byte, error) { return []byte(fmt.Sprint("secret", b.N)), nil }

type valuer struct{ value slog.Value }

func (v valuer) LogValue() slog.Value { return v.value }

// textual and verbose show the secret to one way of printing only.
type textual struct{}

func (textual) String() string               { return "textual" }
func (textual) MarshalJSON() ([]byte, error) { return []byte(`"textual"`), nil }
func (textual) MarshalText() ([]byte, error) { return []byte("a secret"), nil }

type verbose struct{}

func (verbose) Error() string { return "verbose" }
func (verbose) Format(f fmt.State, verb rune) {
	if f.Flag('+') {
		io.WriteString(f, "a secret")
	}
}

// plainTime removes what differs from run to run.
func plainTime(groups []string, attr slog.Attr) slog.Attr {
	if len(groups) == 0 && attr.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return attr
}

// logged returns what log makes a text and a JSON handler behind r print.
func logged(r *Redactor, log func(*slog.Logger)) (text, json string) {
	options := &slog.HandlerOptions{ReplaceAttr: plainTime}
	var textOut, jsonOut bytes.Buffer
	log(slog.New(r.Handler(slog.NewTextHandler(&textOut, options))))
	log(slog.New(r.Handler(slog.NewJSONHandler(&jsonOut, options))))
	return textOut.String(), jsonOut.String()
}

func TestHandlerValues(t *testing.T) {
	address, err := url.Parse("https://user:key@host/secret")
	if err != nil {
		t.Fatal(err)
	}
	r := New("secret")
	for _, tt := range []struct {
		name       string
		value      any
		text, json string // of the value
	}{
		{"string", "a secret", `"a ***"`, `"a ***"`},
		{"error", fmt.Errorf("read: %w", errors.New("secret")), `"read: ***"`, `"read: ***"`},
		{"error with a URL", errors.New("https://user:key@host"), `https://user:***@host`, `"https://user:***@host"`},
		{"Stringer", stringer{3}, `"3 of ***"`, `"3 of ***"`},
		{"URL", address, `https://user:***@host/***`, `"https://user:***@host/***"`},
		{"bytes", []byte("a secret"), `"a ***"`, `"a ***"`},
		{"strings", []string{"a", "secret"}, `"[a ***]"`, `"[a ***]"`},
		{"struct", struct{ Key string }{"secret"}, `{***}`, `"{***}"`},
		{"pointer", &struct{ Key []*string }{[]*string{new("secret")}}, `"{\"Key\":[\"***\"]}"`, `"{\"Key\":[\"***\"]}"`},
		{"map", map[string]any{"key": "secret"}, `map[key:***]`, `"map[key:***]"`},
		{"text only", textual{}, `"a ***"`, `"a ***"`},
		{"details only", verbose{}, `"a ***"`, `"a ***"`},
		{"group", slog.GroupValue(slog.String("a", "secret"), slog.Int("b", 1)), ``, `{"a":"***","b":1}`},
		{"valuer", valuer{slog.AnyValue(stringer{3})}, `"3 of ***"`, `"3 of ***"`},
		{"valuer of a group", valuer{slog.GroupValue(slog.Any("a", valuer{slog.StringValue("secret")}))}, ``, `{"a":"***"}`},

		{"number", 5, "5", "5"},
		{"duration", time.Second, "1s", "1000000000"},
		{"nil", nil, "<nil>", "null"},
		{"nil error", (*broken)(nil), `<nil>`, `"<nil>"`},
		{"other text", "a secre t", `"a secre t"`, `"a secre t"`},
		{"other error", errors.New("x"), "x", `"x"`},
		{"other struct", struct{ N int }{3}, "{N:3}", `{"N":3}`},
		{"other strings", []string{"a", "b"}, `"[a b]"`, `["a","b"]`},
		{"no JSON", func() (c chan int) { return }(), "<nil>", `"!ERROR:json: unsupported type: chan int"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text, json := logged(r, func(l *slog.Logger) { l.Info("m", "k", tt.value) })
			if want := "level=INFO msg=m k=" + tt.text + "\n"; tt.text != "" && text != want {
				t.Errorf("got %s, want %s", text, want)
			}
			if want := `{"level":"INFO","msg":"m","k":` + tt.json + "}\n"; json != want {
				t.Errorf("got %s, want %s", json, want)
			}
		})
	}
}

func TestHandler(t *testing.T) {
	r := New("secret", "hidden")
	text, _ := logged(r, func(l *slog.Logger) {
		l.Warn("a secret at https://user:key@host", "job", 3)
		l.With("key", "hidden", "err", errors.New("secret")).WithGroup("g").With("a", "secret").Error("m", "b", "hidden")
		l.Info("m", slog.Group("g", "a", "secret", slog.Group("h", "b", "hidden")))
		l.Debug("secret")
	})
	want := strings.Join([]string{
		`level=WARN msg="a *** at https://user:***@host" job=3`,
		`level=ERROR msg=m key=*** err=*** g.a=*** g.b=***`,
		`level=INFO msg=m g.a=*** g.h.b=***`,
		"",
	}, "\n")
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHandlerWithoutSecrets(t *testing.T) {
	var none *Redactor
	for _, r := range []*Redactor{none, New()} {
		text, _ := logged(r, func(l *slog.Logger) { l.Info("secret", "at", "https://user:key@host") })
		if want := "level=INFO msg=secret at=https://user:***@host\n"; text != want {
			t.Errorf("got %s, want %s", text, want)
		}
	}
}

// The record that the next handler gets is the same in all that has no secret.
func TestHandlerKeepsRecord(t *testing.T) {
	var got slog.Record
	h := New("secret").Handler(recorder{&got})
	want := slog.NewRecord(time.Unix(1, 2), slog.LevelWarn, "m", 3)
	want.AddAttrs(slog.Int("a", 1), slog.Any("b", errors.New("x")))
	if err := h.Handle(context.Background(), want); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error %v, want that of the next handler", err)
	}
	if got.Time != want.Time || got.Level != want.Level || got.PC != want.PC || got.NumAttrs() != 2 {
		t.Errorf("got %v, want %v", got, want)
	}
}

type recorder struct{ got *slog.Record }

func (r recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r recorder) Handle(_ context.Context, record slog.Record) error {
	*r.got = record
	return io.ErrClosedPipe
}
func (r recorder) WithAttrs([]slog.Attr) slog.Handler { return r }
func (r recorder) WithGroup(string) slog.Handler      { return r }

// A value whose methods panic is left to the next handler.
func TestHandlerWithPanic(t *testing.T) {
	_, json := logged(New("secret"), func(l *slog.Logger) { l.Info("m", "k", panics{}) })
	if !strings.Contains(json, "PANIC") {
		t.Errorf("got %s", json)
	}
}

type panics struct{}

func (panics) MarshalJSON() ([]byte, error) { panic("no") }

// The handler keeps to what log/slog asks of one.
func TestSlogConformance(t *testing.T) {
	var out bytes.Buffer
	slogtest.Run(t,
		func(*testing.T) slog.Handler {
			out.Reset()
			return New("secret").Handler(slog.NewJSONHandler(&out, nil))
		},
		func(t *testing.T) map[string]any { return decoded(t, out.Bytes()) })
}

func decoded(t *testing.T, data []byte) (fields map[string]any) {
	t.Helper()
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}
