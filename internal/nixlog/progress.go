package nixlog

import (
	"time"

	"iglu.sh/builder/schemas"
)

const (
	// maxCount is the highest count: up to it, every program reads numbers in JSON exactly (RFC 8259,
	// section 6).
	maxCount = 1<<53 - 1
	// progressInterval is the shortest time between two progress events.
	progressInterval = 100 * time.Millisecond
)

// totals are the sums of the activities that have ended.
type totals struct {
	derivations, paths schemas.Counts
	bytes              schemas.Share
}

// changed makes the progress be reported within the interval.
func (l *Log) changed() {
	if l.timer == nil {
		l.timer = time.AfterFunc(l.interval, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.timer != nil {
				l.reportProgress()
			}
		})
	}
}

func (l *Log) reportProgress() {
	l.timer = nil
	if e := l.progress(); e != l.sent {
		l.sent = e
		l.tell(e)
	}
}

// progress returns the progress of all processes together.
func (l *Log) progress() schemas.ProgressEvent {
	e := schemas.ProgressEvent{Derivations: l.ended.derivations, Paths: l.ended.paths, Bytes: l.ended.bytes}
	expected, copied := int64(0), int64(0)
	for p := range l.running {
		for _, a := range p.activities {
			switch a.kind {
			case builds:
				e.Derivations = sum(e.Derivations, a.counts)
			case copyPaths:
				e.Paths = sum(e.Paths, a.counts)
			case copyPath:
				e.Bytes.Done = add(e.Bytes.Done, a.bytes.Done)
				copied = add(copied, a.bytes.Expected)
			}
			expected = add(expected, a.expected)
		}
	}
	e.Bytes.Expected = max(e.Bytes.Done, add(l.ended.bytes.Done, copied), expected)
	for _, c := range []*schemas.Counts{&e.Derivations, &e.Paths} {
		c.Expected = max(c.Expected, add(c.Done, c.Running, c.Failed))
	}
	return e
}

func sum(a, b schemas.Counts) schemas.Counts {
	return schemas.Counts{Done: add(a.Done, b.Done), Running: add(a.Running, b.Running), Expected: add(a.Expected, b.Expected), Failed: add(a.Failed, b.Failed)}
}

// over returns the counts of an activity that has ended: nothing is running or expected any more.
func over(c schemas.Counts) schemas.Counts {
	return schemas.Counts{Done: c.Done, Failed: c.Failed, Expected: add(c.Done, c.Failed)}
}

// add returns the sum of counts, or maxCount if that is less.
func add(counts ...int64) (sum int64) {
	for _, n := range counts {
		sum = min(sum+n, maxCount) // no overflow, as n is at most maxCount
	}
	return sum
}
