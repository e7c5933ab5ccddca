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

// The journal holds the lines of each derivation's log as events. This file reads them.

// A Derivation is a derivation that the job has begun to build.
type Derivation struct {
	// Path is the path of its .drv file in the store. Hash and Name are the two parts of that file's name.
	Path string `json:"derivation"`
	Hash string `json:"hash"`
	Name string `json:"name"`

	State schemas.DerivationState `json:"state"`
	Phase string                  `json:"phase,omitempty"` // the latest phase of its build, such as installPhase
	Begun time.Time               `json:"begun"`
	Ended time.Time               `json:"ended,omitzero"`
	Lines int64                   `json:"lines"` // how many lines its log has

	from position // its log does not begin before this
}

// maxDerivations is how many bytes the derivations take that are listed, in memory and as JSON: about derivationSize for
// each, and twice its path. With usual names, it is the size of more than 20,000. Jobs begin fewer, but a job can report
// any number that do not exist.
const (
	maxDerivations = 8 << 20
	derivationSize = 250
)

// Derivations returns the derivations that the job has begun so far, in the order in which they began: only the first
// of them if all take more than maxDerivations.
func (r *Reader) Derivations(ctx context.Context) ([]*Derivation, error) {
	var all []*Derivation
	byPath, size := make(map[string]*Derivation), 0
	of := func(drv string, at position, begun int64) *Derivation { // nil: it is not listed
		d := byPath[drv]
		if d == nil && size < maxDerivations {
			size += derivationSize + 2*len(drv)
			hash, name := nixstore.DerivationName(drv)
			d = &Derivation{Path: drv, Hash: hash, Name: name, State: schemas.DerivationBuilding, Begun: time.UnixMilli(begun).UTC(), from: at}
			byPath[drv] = d
			all = append(all, d)
		}
		return d
	}
	err := r.eachEvent(ctx, position{}, false, func(at position, rec *record) error {
		if drv, ok := lineOf(rec.data); ok {
			if d := byPath[string(drv)]; d != nil { // allocates nothing
				d.Lines++
			} else if d := of(string(drv), at, rec.at); d != nil {
				d.Lines++
			}
			return nil
		}
		e, ok := derivationEvent(rec.data)
		if !ok {
			return nil
		}
		d := of(e.Derivation, at, rec.at)
		if d == nil {
			return nil
		}
		d.State, d.Phase, d.Ended = e.State, e.Phase, time.Time{}
		if e.State != schemas.DerivationBuilding {
			d.Ended = time.UnixMilli(rec.at).UTC()
		}
		return nil
	}, func() error { return nil })
	return all, err
}

// FollowDerivation writes the log of a derivation to w, in whole lines. Without follow, it writes the lines
// that exist and returns. With follow, it returns when the derivation or the job has ended.
func (r *Reader) FollowDerivation(ctx context.Context, d *Derivation, follow bool, w io.Writer) error {
	begin := lineBegin(d.Path)
	ended := false
	var out []byte
	return r.eachEvent(ctx, d.from, follow, func(_ position, rec *record) error {
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

// eachEvent calls visit for each event from a position on, and calls pause after each batch of them. Without
// follow, it returns when there are no more events.
func (r *Reader) eachEvent(ctx context.Context, from position, follow bool, visit func(position, *record) error, pause func() error) error {
	if size, _, _ := r.index.state(ofJournal); size <= from.offset && !follow {
		return nil
	}
	err := r.records(ctx, from, eventsDelay, func(at position, rec *record) error {
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

// lineBegin returns the beginning of each event that is a line of the derivation.
func lineBegin(drv string) []byte {
	return bytes.TrimSuffix(schemas.AppendEvent(nil, schemas.LineEvent{Derivation: drv}), []byte(`"}`))
}

// lineOf returns the derivation whose line an event is. ok is false if the event is not a line.
func lineOf(event []byte) (drv []byte, ok bool) {
	rest, ok := bytes.CutPrefix(event, lineEventBegin)
	if !ok {
		return nil, false
	}
	drv, _, ok = bytes.Cut(rest, []byte(`"`)) // no path in a store holds what JSON escapes
	return drv, ok
}

// derivationEvent returns an event as a DerivationEvent. ok is false if it is another event.
func derivationEvent(event []byte) (e schemas.DerivationEvent, ok bool) {
	if !bytes.HasPrefix(event, derivationEventBegin) {
		return e, false
	}
	return e, json.Unmarshal(event, &e) == nil
}
