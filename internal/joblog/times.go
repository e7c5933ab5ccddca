package joblog

import (
	"sort"
	"time"
)

// Times returns the times at which lines of the log were written: up to count lines, from a line on. The first
// line has number 0. It returns fewer times if the journal has no more.
func (r *Reader) Times(line, count int64) ([]time.Time, error) {
	x := r.index
	x.mu.Lock()
	at := x.journal.beforeLine(line)
	x.mu.Unlock()
	var times []time.Time
	err := r.walk(at, func(at position, rec *record) bool {
		if rec.isLines() {
			for n := max(at.lines, line); n < min(at.lines+rec.count, line+count); n++ {
				times = append(times, time.UnixMilli(rec.at).UTC())
			}
		}
		return int64(len(times)) < count
	})
	return times, err
}

// LinesBefore returns how many lines of the log precede the message with number seq.
func (r *Reader) LinesBefore(seq int64) (lines int64, err error) {
	x := r.index
	x.mu.Lock()
	at := x.journal.before(seq)
	x.mu.Unlock()
	err = r.walk(at, func(at position, rec *record) bool {
		lines = at.lines
		if at.messages+rec.count < seq {
			return true
		}
		if rec.isLines() {
			lines += seq - 1 - at.messages
		}
		return false
	})
	return lines, err
}

// beforeLine returns the last mark at or before a line.
func (j *journal) beforeLine(line int64) position {
	i := sort.Search(len(j.marks), func(i int) bool { return j.marks[i].lines > line })
	if i == 0 {
		return position{}
	}
	return j.marks[i-1]
}

// walk calls show for each existing record from a position on, until show returns false.
func (r *Reader) walk(at position, show func(at position, rec *record) (more bool)) error {
	visit := func(at position, rec *record) error {
		if !show(at, rec) {
			return errEnough
		}
		return nil
	}
	for buf := make([]byte, flushSize); ; {
		size, _, _ := r.index.state(ofJournal)
		if size <= at.offset {
			return nil
		}
		var err error
		if at, buf, err = r.readRecords(buf, at, visit); err == errEnough {
			return nil
		} else if err != nil {
			return err
		}
	}
}
