package buildclient

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/clipperhouse/displaywidth"

	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

const (
	separator = " · "
	ellipsis  = "…"
	// leastName is how many cells of a derivation's name are shown at least.
	leastName = 4
)

// describe returns the progress of a running job in one line, with the given number of derivations that are
// being built.
func (p *progress) describe(names int, now time.Time) string {
	return strings.Join(append(p.parts(now), p.nowLong(names, now)...), separator)
}

// status returns the progress of a running job in at most width cells of a terminal. If there is room, it is
// in words, with as many derivations as fit. Otherwise it is abbreviated, and less important parts are
// left out.
func (p *progress) status(width int, now time.Time) string {
	long := ""
	for names := 1; names == 1 || names <= len(p.building); names++ {
		status := p.describe(names, now)
		// The text with all names can be shorter than that with one name less and "and 1 more".
		if displaywidth.String(status) <= width {
			long = status
		} else if names < len(p.building)-1 || long == "" {
			break
		}
	}
	if long != "" {
		return long
	}
	for parts := p.shortParts(now); ; parts = parts[:len(parts)-1] {
		what := p.nowShort(width-cells(parts), now)
		status := strings.Join(append(parts, what...), separator)
		fits := displaywidth.String(status) <= width && (what != nil || len(p.building) == 0)
		if fits || len(parts) == 1 {
			return displaywidth.TruncateString(status, width, "")
		}
	}
}

// cells returns how many cells the parts need, with the separator after them.
func cells(parts []string) int {
	return displaywidth.String(strings.Join(parts, separator) + separator)
}

// parts returns the phase and its progress, in words.
func (p *progress) parts(now time.Time) []string {
	parts := []string{fmt.Sprintf("%s %s", cmp.Or(phaseWords[p.phase], termtext.Visible(string(p.phase)), "running"), duration(now.Sub(p.begun)))}
	if p.phase == schemas.Wait && p.ahead > 0 {
		parts = append(parts, fmt.Sprintf("%d ahead", p.ahead))
	}
	if d := p.counts.Derivations; d.Expected > 0 {
		built := fmt.Sprintf("%d/%d built", d.Done, d.Expected)
		if d.Failed > 0 {
			built += fmt.Sprintf(", %d failed", d.Failed)
		}
		parts = append(parts, built)
	}
	if d := p.counts.Paths; d.Expected > 0 {
		fetched := fmt.Sprintf("%d/%d paths fetched", d.Done, d.Expected)
		if p.counts.Bytes.Expected > 0 { // nix-build reports none
			fetched += ", " + p.bytes()
		}
		parts = append(parts, fetched)
	}
	if p.push != nil {
		parts = append(parts, fmt.Sprintf("%d/%d paths pushed, %s", p.push.Paths.Done, p.push.Paths.Expected, size(p.push.Bytes)))
	}
	return parts
}

// shortParts returns the same in few characters, the most important part first.
func (p *progress) shortParts(now time.Time) (parts []string) {
	d := p.counts.Derivations
	switch {
	case p.push != nil && p.phase == schemas.PushRest:
		parts = append(parts, fmt.Sprintf("%d/%d pushed", p.push.Paths.Done, p.push.Paths.Expected), size(p.push.Bytes))
	case d.Expected > 0:
		parts = append(parts, fmt.Sprintf("%d/%d built", d.Done, d.Expected))
	default:
		parts = append(parts, p.parts(now)[0])
	}
	if p.counts.Bytes.Expected > 0 {
		parts = append(parts, p.bytes())
	}
	return parts
}

// nowLong returns the derivations that are being built with their times, and the number of those that it
// leaves out.
func (p *progress) nowLong(names int, now time.Time) []string {
	if len(p.building) == 0 {
		return nil
	}
	var texts []string
	for _, b := range p.building[:min(names, len(p.building))] {
		text := nameOf(b.derivation)
		if b.phase != "" {
			text += " (" + termtext.Visible(b.phase) + ")"
		}
		texts = append(texts, text+" "+duration(now.Sub(b.since)))
	}
	text := strings.Join(texts, ", ")
	if more := len(p.building) - len(texts); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return []string{text}
}

// nowShort returns the same without phases in at most width cells, or nil if there is no room.
func (p *progress) nowShort(width int, now time.Time) []string {
	if len(p.building) == 0 {
		return nil
	}
	first := p.building[0]
	name, since := nameOf(first.derivation), " "+duration(now.Sub(first.since))
	room := width - len(since)
	if room < min(leastName, displaywidth.String(name)) {
		return nil
	}
	text := displaywidth.TruncateString(name, room, ellipsis) + since
	for _, b := range p.building[1:] {
		longer := text + ", " + nameOf(b.derivation) + " " + duration(now.Sub(b.since))
		if displaywidth.String(longer) > width {
			break
		}
		text = longer
	}
	return []string{text}
}

// phaseWords are the texts for the phases.
var phaseWords = map[schemas.Phase]string{
	schemas.Wait:     "waiting for a free slot",
	schemas.Pull:     "pulling the image",
	schemas.Create:   "starting",
	schemas.Fetch:    "fetching the source",
	schemas.Evaluate: "evaluating",
	schemas.Build:    "building",
	schemas.PushRest: "pushing",
	schemas.Done:     "ending",
}

// bytes returns the downloaded and the expected bytes, such as 12.3/45.6 MiB.
func (p *progress) bytes() string {
	b := p.counts.Bytes
	unit, name := unitOf(max(b.Done, b.Expected))
	if unit == 1 {
		return fmt.Sprintf("%d/%d %s", b.Done, b.Expected, name)
	}
	done, expected := float64(b.Done)/unit, float64(b.Expected)/unit
	if max(done, expected) >= 100 {
		return fmt.Sprintf("%.0f/%.0f %s", done, expected, name)
	}
	return fmt.Sprintf("%.1f/%.1f %s", done, expected, name)
}

// size returns a number of bytes with a unit.
func size(bytes int64) string {
	unit, name := unitOf(bytes)
	if unit == 1 {
		return fmt.Sprintf("%d %s", bytes, name)
	}
	return fmt.Sprintf("%.1f %s", float64(bytes)/unit, name)
}

// unitOf returns the largest unit that is not larger than a number of bytes.
func unitOf(bytes int64) (unit float64, name string) {
	switch {
	case bytes >= 1<<30:
		return 1 << 30, "GiB"
	case bytes >= 1<<20:
		return 1 << 20, "MiB"
	case bytes >= 1<<10:
		return 1 << 10, "KiB"
	}
	return 1, "B"
}

// duration returns a time in whole seconds, such as 12s, 1m05s or 2h03m.
func duration(d time.Duration) string {
	seconds := int(max(d, 0) / time.Second)
	switch {
	case seconds < 60:
		return fmt.Sprintf("%ds", seconds)
	case seconds < 3600:
		return fmt.Sprintf("%dm%02ds", seconds/60, seconds%60)
	}
	return fmt.Sprintf("%dh%02dm", seconds/3600, seconds/60%60)
}
