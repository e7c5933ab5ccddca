package fakeengine

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// A Fault is a way in which a call goes wrong.
type Fault string

// The faults. A number is another one: the engine answers with that HTTP status and an error,
// and does nothing.
const (
	Slow    Fault = "slow"    // answered after slowness
	Stall   Fault = "stall"   // not answered until Release
	Gone    Fault = "gone"    // the engine is killed, and so are its containers; no connection is accepted until Return
	Reset   Fault = "reset"   // the connection is reset, and nothing is done
	Lost    Fault = "lost"    // done, but the connection is reset before the answer
	Cut     Fault = "cut"     // done, but the answer ends in the middle
	Garbage Fault = "garbage" // done, but the answer is none of an engine
)

// slowness is how long a slow call takes.
const slowness = 90 * time.Second

// A Call is the nth call of a kind.
type Call struct {
	Name string
	Kind *regexp.Regexp // method and path, without the API's version
	Nth  int
}

// CallAt returns the nth call of a kind.
func CallAt(name, kind string, nth int) Call {
	return Call{name, regexp.MustCompile("^(" + kind + ")$"), nth}
}

// breakage is a call that is to go wrong.
type breakage struct {
	Call
	spoil func(w http.ResponseWriter, r *http.Request, a func() answer)
	seen  int
	hit   bool
}

// Break has a call go wrong, counted from now on. It returns whether that has happened.
func (e *Engine) Break(call Call, fault Fault) (hit func() bool) {
	return e.breakWith(call, func(w http.ResponseWriter, r *http.Request, a func() answer) { e.spoil(fault, w, r, a) })
}

// At has something done just before a call, which then goes on.
func (e *Engine) At(call Call, do func()) (hit func() bool) {
	return e.breakWith(call, func(w http.ResponseWriter, r *http.Request, a func() answer) {
		do()
		a().send(w, r)
	})
}

// Answer has a call answered with a status and a JSON text, and nothing done.
func (e *Engine) Answer(call Call, status int, body string) (hit func() bool) {
	return e.breakWith(call, func(w http.ResponseWriter, r *http.Request, _ func() answer) {
		answer{status: status, header: http.Header{"Content-Type": {"application/json"}}, body: []byte(body)}.send(w, r)
	})
}

func (e *Engine) breakWith(call Call, spoil func(w http.ResponseWriter, r *http.Request, a func() answer)) (hit func() bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := &breakage{Call: call, spoil: spoil}
	e.broken = append(e.broken, b)
	return func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return b.hit
	}
}

// due returns what is to go wrong with a call, or nil.
func (e *Engine) due(call string) *breakage {
	e.mu.Lock()
	defer e.mu.Unlock()
	var due *breakage
	for _, b := range e.broken {
		if b.Kind.MatchString(call) {
			if b.seen++; b.seen == b.Nth {
				b.hit = true
				due = b
			}
		}
	}
	return due
}

func (e *Engine) spoil(fault Fault, w http.ResponseWriter, r *http.Request, a func() answer) {
	switch fault {
	case Slow:
		time.Sleep(slowness)
		a().send(w, r)
	case Stall:
		select {
		case <-e.released:
		case <-e.closed:
		}
	case Gone:
		e.die()
	case Reset:
		hijacked(w).reset()
	case Lost:
		a()
		hijacked(w).reset()
	case Cut:
		a().cut(w, r)
	case Garbage:
		a().spoilt().send(w, r)
	default:
		status, err := strconv.Atoi(string(fault))
		must(err)
		answer{status: status, header: http.Header{"Content-Type": {"application/json"}}, body: []byte(`{"message":"the test says so"}` + "\n")}.send(w, r)
	}
}

// die ends the engine and its containers, as when both are killed. Until Return, nobody is
// connected to it.
func (e *Engine) die() {
	e.mu.Lock()
	e.down = syscall.ECONNREFUSED
	conns := e.conns
	e.conns = nil
	e.mu.Unlock()
	for _, c := range conns {
		c.reset()
	}
	e.Kill()
}

// Refuse has the engine accept no connection from now on, for a reason.
func (e *Engine) Refuse(why syscall.Errno) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = why
	for _, c := range e.conns {
		c.reset()
	}
	e.conns = nil
}

// Hang has the engine answer nothing from now on, though it accepts connections.
func (e *Engine) Hang() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hangs = make(chan struct{})
}

// Return has the engine accept connections and answer again.
func (e *Engine) Return() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = nil
	if e.hangs != nil {
		close(e.hangs)
		e.hangs = nil
	}
}

// Release ends every stall. The calls are not answered.
func (e *Engine) Release() { close(e.released) }

func hijacked(w http.ResponseWriter) *conn {
	c, _, err := w.(http.Hijacker).Hijack()
	must(err)
	return c.(*conn)
}

// send sends an answer as engines do.
func (a answer) send(w http.ResponseWriter, r *http.Request) {
	if a.stream != nil {
		c := hijacked(w)
		a.taken(c)
		fmt.Fprintf(c, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
		a.header.Write(c)
		fmt.Fprint(c, "Connection: Upgrade\r\n\r\n")
		a.stream(c)
		c.Close()
		return
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	if a.later != nil {
		w.(http.Flusher).Flush()
		a.body = a.later()
	}
	if r.Method != http.MethodHead && a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		w.Write(a.body)
	}
}

// spoilt returns an answer whose body is none of an engine.
func (a answer) spoilt() answer {
	const text = "<html>an answer of something in between</html>"
	if then := a.stream; then != nil {
		a.stream = func(c *conn) {
			fmt.Fprint(c, text)
			then(c)
		}
		return a
	}
	return answer{status: http.StatusOK, header: http.Header{"Content-Type": {"text/html"}}, body: []byte(text)}
}

// cutAt is how many bytes come through of a stream that is cut: the head of a frame, and some of
// what is in it.
const cutAt = 8 + 5

// cut sends half of an answer, and ends the connection: of a stream the head, of output also the
// beginning of a frame, of what has no body the first line.
func (a answer) cut(w http.ResponseWriter, r *http.Request) {
	var head bytes.Buffer
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	a.header.Write(&head)
	c := hijacked(w)
	defer c.Close()
	switch {
	case a.stream != nil:
		c.limit = cutAt // beside the head, which is not counted
		a.taken(c)
		fmt.Fprintf(c.Conn, "%sConnection: Upgrade\r\n\r\n", &head)
		a.stream(c)
	case a.later != nil:
		fmt.Fprintf(c, "%sTransfer-Encoding: chunked\r\n\r\n", &head)
	case len(a.body) == 0 || r.Method == http.MethodHead:
		c.Write(head.Bytes()[:head.Len()/2])
	default:
		fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n%s", &head, len(a.body), a.body[:len(a.body)/2])
	}
}
