package joblog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/schemas"
)

// The journal holds the lines of each derivation's own log as events among the others. This file
// finds them again.

// A Derivation is one that the job has begun to build.
type Derivation struct {
	// Path is that of its .drv file in the store, Hash is what tells it from others in there, and Name
	// is what people know it by.
	Path string `json:"derivation"`
	Hash string `json:"hash"`
	Name string `json:"name"`

	State schemas.DerivationState `json:"state"`
	Phase string                  `json:"phase,omitempty"` // of its builder
	Begun time.Time               `json:"begun"`
	Ended time.Time               `json:"ended,omitzero"`
	Lines int64                   `json:"lines"` // of its log

	from place // where its log can begin
}

// Derivations returns those of the job so far, in the order in which they began.
func (r *Reader) Derivations(ctx context.Context) ([]*Derivation, error) {
	var all []*Derivation
	byPath := make(map[string]*Derivation)
	of := func(drv string, at place, begun int64) *Derivation {
		d := byPath[drv]
		if d == nil {
			hash, name := nixstore.DerivationName(drv)
			d = &Derivation{Path: drv, Hash: hash, Name: name, State: schemas.DerivationBuilding, Begun: time.UnixMilli(begun).UTC(), from: at}
			byPath[drv] = d
			all = append(all, d)
		}
		return d
	}
	err := r.eachEvent(ctx, place{}, false, func(at place, rec *record) error {
		if drv, ok := lineOf(rec.data); ok {
			if d := byPath[string(drv)]; d != nil { // allocates nothing
				d.Lines++
			} else {
				of(string(drv), at, rec.at).Lines++
			}
			return nil
		}
		e, ok := derivationEvent(rec.data)
		if !ok {
			return nil
		}
		d := of(e.Derivation, at, rec.at)
		d.State, d.Phase, d.Ended = e.State, e.Phase, time.Time{}
		if e.State != schemas.DerivationBuilding {
			d.Ended = time.UnixMilli(rec.at).UTC()
		}
		return nil
	}, func() error { return nil })
	return all, err
}

// FollowDerivation writes the log of a derivation to w, line by line, each with a line end: as far as it
// is there or, with follow, until the derivation, or the job, has ended.
func (r *Reader) FollowDerivation(ctx context.Context, d *Derivation, follow bool, w io.Writer) error {
	begin := lineBegin(d.Path)
	ended := false
	var out []byte
	return r.eachEvent(ctx, d.from, follow, func(_ place, rec *record) error {
		if bytes.HasPrefix(rec.data, begin) {
			var line schemas.LineEvent
			if err := json.Unmarshal(rec.data, &line); err != nil {
				return fmt.Errorf("read a line of a derivation: %w", err)
			}
			out = append(append(out, line.Text...), '\n')
		} else if e, ok := derivationEvent(rec.data); ok && e.Derivation == d.Path {
			ended = e.State != schemas.DerivationBuilding
		}
		return nil
	}, func() error {
		if len(out) > 0 {
			if _, err := w.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
		if ended {
			return errEnough
		}
		return nil
	})
}

// errEnough ends the reading of a journal.
var errEnough = errors.New("enough")

// eachEvent gives visit the events from a place on, and calls pause when it has given some, and all that
// there are. Without follow it returns then.
func (r *Reader) eachEvent(ctx context.Context, from place, follow bool, visit func(place, *record) error, pause func() error) error {
	if size, _, _ := r.index.state(ofJournal); size <= from.offset && !follow {
		return nil
	}
	err := r.records(ctx, from, func(at place, rec *record) error {
		if rec.kind != eventRecord {
			return nil
		}
		return visit(at, rec)
	}, func(more bool) error {
		if err := pause(); err != nil && !(more && err == errEnough) {
			return err
		}
		if !more && !follow {
			return errEnough
		}
		return nil
	})
	if err == errEnough {
		return nil
	}
	return err
}

var (
	lineEventBegin       = []byte(`{"type":"line","derivation":"`)
	derivationEventBegin = []byte(`{"type":"derivation",`)
)

// lineBegin returns what the events begin with that are lines of a derivation.
func lineBegin(drv string) []byte {
	return bytes.TrimSuffix(schemas.AppendEvent(nil, schemas.LineEvent{Derivation: drv}), []byte(`"}`))
}

// lineOf returns the derivation that an event is a line of.
func lineOf(event []byte) (drv []byte, ok bool) {
	rest, ok := bytes.CutPrefix(event, lineEventBegin)
	if !ok {
		return nil, false
	}
	drv, _, ok = bytes.Cut(rest, []byte(`"`)) // no path in a store holds what JSON escapes
	return drv, ok
}

// derivationEvent returns the state of a derivation that an event tells.
func derivationEvent(event []byte) (e schemas.DerivationEvent, ok bool) {
	if !bytes.HasPrefix(event, derivationEventBegin) {
		return e, false
	}
	return e, json.Unmarshal(event, &e) == nil
}
