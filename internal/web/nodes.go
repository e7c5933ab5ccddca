package web

import (
	"fmt"
	"net/http"
	"strings"

	"iglu.sh/builder/orchestrator/nodes"
)

func (s *Server) serveNodes(w http.ResponseWriter, r *http.Request) {
	states := s.jobs.Nodes()
	if states == nil {
		states = []nodes.State{}
	}
	s.answer(w, r, struct {
		Nodes []nodes.State `json:"nodes"`
	}{states})
}

// A nodeView is a node for people, with words and marks.
type nodeView struct{ nodes.State }

// Word returns the state of the node in a word.
func (n nodeView) Word() string {
	switch {
	case !n.Up:
		return "down"
	case n.Problem != "":
		return "problem"
	case n.Draining:
		return "draining"
	}
	return "up"
}

// Tone returns the CSS class for the colour of the word.
func (n nodeView) Tone() string {
	return map[string]string{"up": "good", "problem": "odd", "draining": "odd", "down": "bad"}[n.Word()]
}

// Mark returns a symbol for the node's state.
func (n nodeView) Mark() string {
	return map[string]string{"up": "✓", "problem": "!", "draining": "…", "down": "✗"}[n.Word()]
}

// GiB returns the node's memory in GiB.
func (n nodeView) GiB() string { return fmt.Sprintf("%.1f GiB", float64(n.Memory)/(1<<30)) }

// A nodesView is the list of nodes on the page; nil if the builder has one engine.
type nodesView []nodeView

func (s *Server) nodes() nodesView {
	states := s.jobs.Nodes()
	if states == nil {
		return nil
	}
	view := make(nodesView, 0, len(states))
	for _, state := range states {
		view = append(view, nodeView{state})
	}
	return view
}

// Several reports whether the builder uses nodes. The list may be empty now.
func (v nodesView) Several() bool { return v != nil }

// Troubled reports whether a node cannot be used.
func (v nodesView) Troubled() bool { return v.count("down")+v.count("problem") > 0 }

// Summary returns a line about the state of all nodes.
func (v nodesView) Summary() string {
	if len(v) == 0 {
		return "none is there"
	}
	slots, free := 0, 0
	for _, n := range v {
		free += n.Free()
		if n.Up {
			slots += n.Slots
		}
	}
	parts := []string{fmt.Sprintf("%d nodes", len(v)), fmt.Sprintf("%d of %d slots free", free, slots)}
	if len(v) == 1 {
		parts[0] = "1 node"
	}
	if n := v.count("down"); n > 0 {
		parts = append(parts, fmt.Sprintf("%d down", n))
	}
	if n := v.count("draining"); n > 0 {
		parts = append(parts, fmt.Sprintf("%d draining", n))
	}
	if n := v.count("problem"); n > 0 {
		parts = append(parts, fmt.Sprintf("%d with a problem", n))
	}
	return strings.Join(parts, ", ")
}

func (v nodesView) count(word string) (n int) {
	for _, node := range v {
		if node.Word() == word {
			n++
		}
	}
	return n
}
