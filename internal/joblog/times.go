package joblog

import (
	"fmt"
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
	for buf := make([]byte, flushSize); ; {
		size, _, _ := r.index.state(ofJournal)
		if size <= at.offset {
			return nil
		}
		n, err := r.index.readJournal(r.journal, buf[:min(int64(len(buf)), size-at.offset)], at.offset)
		if err != nil {
			return fmt.Errorf("read a job's journal: %w", err)
		}
		records := buf[:n]
		for {
			rec, length := parseRecord(records, at.at)
			if length < 0 {
				return fmt.Errorf("read a job's journal: no record at byte %d", at.offset)
			}
			if length == 0 {
				break
			}
			if !show(at, &rec) {
				return nil
			}
			at = at.next(&rec, length)
			records = records[length:]
		}
		if len(records) == n { // one record is longer
			buf = make([]byte, 2*len(buf))
		}
	}
}
