package buildclient

import (
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

const (
	// paintInterval is how often the status line is updated.
	paintInterval = 100 * time.Millisecond
	// defaultWidth is the width if the terminal does not report its own, in columns.
	defaultWidth = 80
	// maxResults is how many paths of results a summary shows.
	maxResults = 16
)

const (
	// eraseStatus removes the status line: it moves the cursor to the first column and erases everything
	// after it (ECMA-48, ED). The cursor is in that column since the line was written. If a terminal becomes
	// narrower and wraps the line, the cursor stays at the line's beginning, so the whole line is erased.
	eraseStatus = "\r\x1b[J"
	statusColor = "\x1b[36m" // cyan
)

// A screen shows a job on a terminal: its log, which scrolls, and below it a status line with the job's
// progress, which is removed when the job ends.
type screen struct {
	terminal *os.File
	color    bool
	builder  *url.URL
	target   push // what the job pushes to
	now      func() time.Time
	at       func(schemas.Message) time.Time // the time of a message
	stop     func()

	mu       sync.Mutex // guards what follows
	text     []byte     // to print above the status line
	status   string     // the line on the terminal
	progress *progress  // nil before the job is accepted
	results  []string   // store paths that the build has printed
	err      error      // the first error of the terminal
}

func newScreen(terminal *os.File, o Options) *screen {
	s := &screen{terminal: terminal, color: !o.NoColor, builder: o.URL, target: pushOf(o.Job), now: o.now, at: o.at}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	ticker := time.NewTicker(paintInterval)
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ticker.C:
			case <-resized:
			case <-ended:
				return
			}
			s.flush()
		}
	}()
	s.stop = func() {
		signal.Stop(resized)
		ticker.Stop()
		close(ended)
		<-done
	}
	return s
}

func (s *screen) line(_, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(text) <= nixstore.MaxPath && len(s.results) < maxResults && nixstore.IsPath(string(text)) {
		s.results = append(s.results, string(text))
	}
	s.text = append(termtext.AppendLine(s.text, text, s.color), '\n')
	if len(s.text) >= bufferSize {
		s.paint()
	}
}

func (s *screen) message(_ []byte, m schemas.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Response != nil && m.Response.JobStatus == schemas.Starting {
		s.progress = newProgress(s.at(m))
	}
	if s.progress == nil {
		return
	}
	if m.Event != nil {
		s.progress.take(m.Event, s.at(m))
	}
	if m.Last() {
		s.text = s.appendSummary(s.text, m.Response)
	}
}

// hasShown reports whether a summary was shown. A refused job has none.
func (s *screen) hasShown(last schemas.Message) bool { return s.progress != nil && last.Last() }

func (s *screen) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := ""
	if s.progress != nil {
		// The last column stays free: a character there may wrap.
		status = s.progress.status(s.width()-1, s.now())
	}
	if len(s.text) > 0 || status != s.status {
		s.status = status
		s.paint()
	}
	return printed(s.err)
}

// paint prints the pending text and the status line below it, in one write.
func (s *screen) paint() {
	frame := append([]byte(eraseStatus), s.text...)
	if s.status != "" {
		frame = append(append(frame, s.colored(statusColor, s.status)...), '\r')
	}
	s.text = s.text[:0]
	if _, err := s.terminal.Write(frame); s.err == nil {
		s.err = err
	}
}

// end prints the pending text and removes the status line.
func (s *screen) end() error {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.text) > 0 || s.status != "" {
		s.status = ""
		s.paint()
	}
	return printed(s.err)
}

// width returns how many columns the terminal has now.
func (s *screen) width() int {
	width, _, err := term.GetSize(int(s.terminal.Fd()))
	if err != nil || width <= 0 {
		return defaultWidth
	}
	return width
}

// colored returns text in a colour, unless colours are off.
func (s *screen) colored(color, text string) string {
	if !s.color {
		return text
	}
	return color + text + termtext.ResetColors
}
