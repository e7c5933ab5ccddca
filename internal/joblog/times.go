package joblog

import (
	"sort"
	"time"
)

// Times returns when lines of the log came, from one on that is counted from 0: up to count of
// them, as far as the journal reaches.
func (r *Reader) Times(line, count int64) ([]time.Time, error) {
	x := r.index
	x.mu.Lock()
	at := x.journal.beforeLine(line)
	x.mu.Unlock()
	var times []time.Time
	err := r.walk(at, func(at place, rec *record) bool {
		if rec.isLines() {
			for n := max(at.lines, line); n < min(at.lines+rec.count, line+count); n++ {
				times = append(times, time.UnixMilli(rec.at).UTC())
			}
		}
		return int64(len(times)) < count
	})
	return times, err
}

// LinesBefore returns how many lines of the log came before a message, whose number is Seq.
func (r *Reader) LinesBefore(seq int64) (lines int64, err error) {
	x := r.index
	x.mu.Lock()
	at := x.journal.before(seq)
	x.mu.Unlock()
	err = r.walk(at, func(at place, rec *record) bool {
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
func (j *journal) beforeLine(line int64) place {
	i := sort.Search(len(j.marks), func(i int) bool { return j.marks[i].lines > line })
	if i == 0 {
		return place{}
	}
	return j.marks[i-1]
}

// walk shows the records from a place on that are there, until show wants no more.
func (r *Reader) walk(at place, show func(at place, rec *record) (more bool)) error {
	visit := func(at place, rec *record) error {
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
		if at, buf, err = r.readRecords(buf, at, size, visit); err == errEnough {
			return nil
		} else if err != nil {
			return err
		}
	}
}
