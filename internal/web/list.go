package web

import (
	"cmp"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"iglu.sh/builder/internal/history"
)

const (
	// maxLooked is how many of the newest jobs are searched for repositories.
	maxLooked = 500
	// maxAddresses is the largest size of the addresses of all repositories on the page, in bytes: enough for as many
	// usual ones as jobs are searched. The page has each of them several times.
	maxAddresses = 64 << 10
)

// A filter selects jobs.
type filter struct {
	Repository string // empty for all
	State      string // one of states; empty for all
	Before     string // the id of a job: only older jobs; empty for all
}

// states are the states that a filter can have.
var states = map[string]func(history.Record) bool{
	"unended":   history.Record.Runs,
	"waiting":   history.Record.Waits,
	"running":   func(r history.Record) bool { return r.Runs() && !r.Waits() },
	"succeeded": history.Record.Succeeded,
	"failed":    func(r history.Record) bool { return !r.Runs() && !r.Succeeded() },
}

// filterOf returns the filter of a request. If it is invalid, it answers the request.
func filterOf(w http.ResponseWriter, r *http.Request) (f filter, ok bool) {
	query := r.URL.Query()
	f = filter{Repository: query.Get("repository"), State: query.Get("state"), Before: query.Get("before")}
	if _, known := states[f.State]; f.State != "" && !known {
		http.Error(w, "state is none of unended, waiting, running, succeeded and failed.", http.StatusBadRequest)
		return f, false
	}
	return f, true
}

// match reports whether the filter selects a job.
func (f filter) match(r history.Record) bool {
	return (f.Repository == "" || sameRepository(f.Repository, r.Repository)) && (f.State == "" || states[f.State](r))
}

// sameRepository reports whether two addresses are of the same repository, with whatever protocol.
func sameRepository(a, b string) bool { return shortRepository(a) == shortRepository(b) }

// query returns the filter as the query of an address, for the jobs before a given job.
func (f filter) query(before string) template.URL {
	query := url.Values{}
	for name, value := range map[string]string{"repository": f.Repository, "state": f.State, "before": before} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return template.URL("./?" + query.Encode())
}

// A list is what the page of all jobs shows besides the jobs.
type list struct {
	filter
	States       []string
	Repositories []repositoryView
	// Chosen is the repository in the filter, if it is known.
	Chosen *repositoryView
	// Older is the address of the page with older jobs; empty if there are none. Newest is the address of the
	// page with the newest jobs; empty if this is it.
	Older, Newest template.URL
	// Empty is true if the builder has no jobs at all.
	Empty bool
}

// Filtered reports whether the page does not show all jobs from the newest on.
func (l list) Filtered() bool { return l.filter != filter{} }

func (s *Server) serveHome(w http.ResponseWriter, r *http.Request) {
	f, ok := filterOf(w, r)
	if !ok {
		return
	}
	p, err := s.home(f)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.render(w, r, "home", http.StatusOK, p)
}

// home returns the page with the selected jobs. Without a filter, running and waiting jobs are before the
// others, in the order in which they were sent.
func (s *Server) home(f filter) (p page, err error) {
	p = page{Title: "Jobs", Here: "jobs", List: list{filter: f, States: []string{"waiting", "running", "succeeded", "failed"}}}
	looked, err := s.records.Find("", maxLooked, func(history.Record) bool { return true })
	if err != nil {
		return p, err
	}
	p.List.Empty = len(looked) == 0
	var records []history.Record
	if p.List.Filtered() {
		records, err = s.records.Find(f.Before, defaultRecords+1, f.match)
	} else {
		p.Nodes = s.nodes()
		if err := s.addRunning(&p); err != nil {
			return p, err
		}
		records, err = s.records.Find("", defaultRecords+1, func(r history.Record) bool { return !r.Runs() })
	}
	if err != nil {
		return p, err
	}
	if len(records) > defaultRecords {
		records = records[:defaultRecords]
		p.List.Older = f.query(records[defaultRecords-1].Job)
	}
	if f.Before != "" {
		p.List.Newest = f.query("")
	}
	for _, record := range records {
		p.Jobs = append(p.Jobs, jobView{record})
	}
	p.List.Repositories = repositoriesOf(looked)
	i := slices.IndexFunc(p.List.Repositories, func(v repositoryView) bool { return sameRepository(v.Repository, f.Repository) })
	if f.Repository != "" && i >= 0 {
		p.List.Chosen = &p.List.Repositories[i]
	}
	return p, nil
}

// addRunning adds the running and waiting jobs, the same as the API lists: the page compares them.
func (s *Server) addRunning(p *page) error {
	records, err := s.records.Find("", maxRecords, history.Record.Runs)
	if err != nil {
		return err
	}
	var count struct{ running, waiting int }
	for _, record := range slices.Backward(records) {
		p.Running = append(p.Running, jobView{record})
		if record.Waits() {
			count.waiting++
		} else {
			count.running++
		}
	}
	switch {
	case len(records) == 0:
		return nil
	case count.waiting > 0:
		p.Waiting = true
		p.Title = fmt.Sprintf("● %d running, %d waiting", count.running, count.waiting)
	default:
		p.Title = fmt.Sprintf("● %d running", count.running)
	}
	p.State, p.Job = p.Running[0], p.Running[0]
	return nil
}

// A repositoryView is a repository on the page: its last jobs.
type repositoryView struct {
	Repository string
	Name       string
	URL        template.URL // of the list of its jobs
	Badge      template.URL
	Bars       []bar     // the oldest first
	Last       jobView   // the newest
	durations  []float64 // in seconds, of jobs that succeeded
}

// A bar is a job in a chart of durations.
type bar struct {
	Job          jobView
	X, Y, Height int
	seconds      float64
}

// The sizes of a chart, in px.
const (
	maxBars   = 20
	barStep   = 8 // from one bar to the next
	barHeight = 32
	minBar    = 3
)

// Width returns the width of the chart.
func (v repositoryView) Width() int { return barStep * len(v.Bars) }

// Median returns the median time of the repository's successful jobs; empty if there are none.
func (v repositoryView) Median() string {
	if len(v.durations) == 0 {
		return ""
	}
	sorted := slices.Sorted(slices.Values(v.durations))
	return duration(time.Duration(sorted[len(sorted)/2] * float64(time.Second)))
}

// Summary describes the chart in words.
func (v repositoryView) Summary() string {
	good := 0
	for _, b := range v.Bars {
		if b.Job.Succeeded() {
			good++
		}
	}
	return fmt.Sprintf("%d of the last %d jobs succeeded", good, len(v.Bars))
}

// repositoriesOf returns the repositories of jobs, sorted by name. The jobs are sorted, the newest first. Repositories for
// whose addresses there is no room are left out.
func repositoriesOf(records []history.Record) []repositoryView {
	byName := make(map[string]*repositoryView)
	room := maxAddresses
	for _, r := range records {
		name := shortRepository(r.Repository)
		if name == "" {
			continue
		}
		v := byName[name]
		if v == nil {
			if len(r.Repository) > room {
				continue
			}
			room -= len(r.Repository)
			query := url.Values{"repository": {r.Repository}}.Encode()
			v = &repositoryView{Repository: r.Repository, Name: name, Last: jobView{r},
				URL: template.URL("./?" + query), Badge: template.URL("./api/v1/badge?" + query)}
			byName[name] = v
		}
		if !r.Ended.IsZero() && len(v.Bars) < maxBars {
			v.add(r)
		}
	}
	var all []repositoryView
	for _, v := range byName {
		v.layOut()
		all = append(all, *v)
	}
	slices.SortFunc(all, func(a, b repositoryView) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (v *repositoryView) add(r history.Record) {
	b := bar{Job: jobView{r}, seconds: r.Ended.Sub(r.Begun).Seconds()}
	v.Bars = append(v.Bars, b)
	if r.Succeeded() {
		v.durations = append(v.durations, b.seconds)
	}
}

// layOut sets the positions of the bars, the newest at the right.
func (v *repositoryView) layOut() {
	slices.Reverse(v.Bars)
	longest := 0.0
	for _, b := range v.Bars {
		longest = max(longest, b.seconds)
	}
	for i := range v.Bars {
		b := &v.Bars[i]
		b.Height = minBar
		if longest > 0 {
			b.Height = max(minBar, int(barHeight*b.seconds/longest))
		}
		b.X, b.Y = barStep*i, barHeight-b.Height
	}
}

// serveBadge serves an image with the state of a repository's newest job. Running and cancelled jobs do not
// count. The image contains no text of a job.
func (s *Server) serveBadge(w http.ResponseWriter, r *http.Request) {
	repository, branch := r.URL.Query().Get("repository"), r.URL.Query().Get("branch")
	if repository == "" {
		http.Error(w, "repository is missing.", http.StatusBadRequest)
		return
	}
	records, err := s.records.Find("", 1, func(r history.Record) bool {
		tone := jobView{r}.Tone()
		return sameRepository(repository, r.Repository) && (branch == "" || branch == r.Branch) && (tone == "good" || tone == "bad")
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	b := badge{Word: "no job", Tone: "none"}
	if len(records) > 0 {
		b = badge{Word: jobView{records[0]}.Word(), Tone: jobView{records[0]}.Tone()}
	}
	var text strings.Builder
	if err := templates().ExecuteTemplate(&text, "badge", b); err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "image/svg+xml")
	fmt.Fprint(w, text.String())
}

// A badge is a word on a coloured background.
type badge struct{ Word, Tone string }

// The sizes of a badge, in px. A browser fits a text to its textLength.
const (
	badgeName   = 76
	badgeLetter = 6
	badgeMargin = 10
)

// Name returns the width of the badge's left part, and Width that of the badge.
func (b badge) Name() int  { return badgeName }
func (b badge) Width() int { return badgeName + b.Length() + 2*badgeMargin }

// Length returns the width of the word.
func (b badge) Length() int { return badgeLetter * len(b.Word) }

// Text returns the horizontal position of the word.
func (b badge) Text() int { return badgeName + badgeMargin }

// Ground returns the colour behind the word. White text on it is readable.
func (b badge) Ground() string {
	return map[string]string{"good": "#17693a", "bad": "#a8232c", "none": "#53626e"}[b.Tone]
}
