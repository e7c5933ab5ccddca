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
	// paintInterval is how often the status line is looked after.
	paintInterval = 100 * time.Millisecond
	// defaultWidth is that of a terminal that does not tell its own.
	defaultWidth = 80
	// maxResults bounds how many paths of results a summary names.
	maxResults = 16
)

const (
	// eraseStatus removes the status line: to its first column, and all from there on
	// (ECMA-48, ED). The cursor is left in that column when the line is written, and
	// terminals that wrap lines anew when they become narrower keep it there: so whatever
	// becomes of the line lies behind the cursor.
	eraseStatus = "\r\x1b[J"
	statusColor = "\x1b[36m" // cyan
)

// A screen shows a job on a terminal: its log, which scrolls, and below it a line with how far
// the job is, which is gone when the job is.
type screen struct {
	terminal *os.File
	color    bool
	builder  *url.URL
	target   push // what the job pushes to
	now      func() time.Time
	stop     func()

	mu       sync.Mutex // guards what follows
	text     []byte     // that is to be printed above the status line
	status   string     // on the terminal now
	progress *progress  // nil before the job is accepted
	results  []string   // store paths that the build has printed
	err      error      // the first that the terminal had
}

func newScreen(terminal *os.File, o Options) *screen {
	s := &screen{terminal: terminal, color: !o.NoColor, builder: o.URL, target: pushOf(o.Job), now: o.now}
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
		s.progress = newProgress(s.now())
	}
	if s.progress == nil {
		return
	}
	if m.Event != nil {
		s.progress.take(m.Event, s.now())
	}
	if m.Last() {
		s.text = s.appendSummary(s.text, m.Response)
	}
}

// hasShown reports whether there is a summary: not of a job that was refused.
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

// paint prints the text that waits and the status line below it, in one write.
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

// end prints what waits and leaves no status line.
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

// colored returns text in a colour, if the terminal is to have any.
func (s *screen) colored(color, text string) string {
	if !s.color {
		return text
	}
	return color + text + termtext.ResetColors
}
