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

// A Fault is a way in which a call fails.
type Fault string

// The faults. A number is a fault too: the engine answers with that HTTP status and an error, and does
// nothing.
const (
	Slow    Fault = "slow"    // answered after slowness
	Stall   Fault = "stall"   // not answered
	Gone    Fault = "gone"    // the engine and its containers are killed; no connection is accepted until Return
	Reset   Fault = "reset"   // the connection is reset, and nothing is done
	Lost    Fault = "lost"    // done, but the connection is reset before the answer
	Cut     Fault = "cut"     // done, but the answer ends in the middle
	Garbage Fault = "garbage" // done, but the answer is not one of an engine
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

// breakage is a fault that is planned for a call.
type breakage struct {
	Call
	spoil func(w http.ResponseWriter, r *http.Request, a func() answer)
	seen  int
	hit   bool
}

// Break makes a call fail, counted from now on. hit reports whether that has happened.
func (e *Engine) Break(call Call, fault Fault) (hit func() bool) {
	return e.breakWith(call, func(w http.ResponseWriter, r *http.Request, a func() answer) { e.spoil(fault, w, r, a) })
}

// At calls a function just before a call. The call then continues normally.
func (e *Engine) At(call Call, do func()) (hit func() bool) {
	return e.breakWith(call, func(w http.ResponseWriter, r *http.Request, a func() answer) {
		do()
		a().send(w, r)
	})
}

// Answer makes the engine answer a call with a status and a JSON text, and do nothing.
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

// due returns the fault that is planned for a call, or nil.
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
		<-e.closed
	case Gone:
		time.Sleep(time.Nanosecond) // in a bubble of synctest: until nothing else is under way, such as the last output
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

// die ends the engine and its containers as if both were killed. Until Return, nobody can connect.
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

// Refuse makes all new connections fail with an error.
func (e *Engine) Refuse(why syscall.Errno) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = why
	for _, c := range e.conns {
		c.reset()
	}
	e.conns = nil
}

// Hang makes the engine accept connections but answer no calls.
func (e *Engine) Hang() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hangs = make(chan struct{})
}

// Return makes the engine accept connections and answer calls again.
func (e *Engine) Return() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = nil
	if e.hangs != nil {
		close(e.hangs)
		e.hangs = nil
	}
}

func hijacked(w http.ResponseWriter) *conn {
	c, _, err := w.(http.Hijacker).Hijack()
	must(err)
	return c.(*conn)
}

// send sends an answer in the way engines do.
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

// spoilt returns an answer whose body is not one of an engine.
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

// cutAt is how many bytes of a stream are sent before it is cut: the header of a frame and a part of its
// content.
const cutAt = 8 + 5

// cut sends a part of an answer and closes the connection. The part is the head of a stream and the
// beginning of its first frame, half of a body, or the first line of an answer without a body.
func (a answer) cut(w http.ResponseWriter, r *http.Request) {
	var head bytes.Buffer
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	a.header.Write(&head)
	c := hijacked(w)
	defer c.Close()
	switch {
	case a.stream != nil:
		c.limit = cutAt // the head does not count
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
