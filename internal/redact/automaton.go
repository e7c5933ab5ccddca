package redact

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// An automaton finds all forms in a text in one pass (Aho and Corasick, 1975). A node represents a beginning
// of one or more forms. After each byte, the automaton is at the longest beginning with which the text up to
// there ends.
//
// Nodes are numbered level by level. So the children of a node have consecutive numbers, followed by the
// children of the next node. A node uses 17 bytes. Most nodes have one child.
type automaton struct {
	nodes  []node
	labels []byte      // by node: the byte that leads to it from its parent
	starts [256]uint32 // the children of the root, by their labels
	window int         // how much of each form's beginning is in grams, in bytes
	grams  [gramBits / 8]byte
}

type node struct {
	children uint32 // the first child; the first child of the next node is the end
	fallback uint32 // the node of the longest shorter beginning with which this one ends
	depth    uint32 // the length of the beginning in bytes
	ending   uint32 // the length of the longest form with which it ends, or 0
}

const root = 0

// compile returns an automaton for forms, or nil if there are none. It sorts forms.
func compile(forms []string) *automaton {
	if len(forms) == 0 {
		return nil
	}
	slices.Sort(forms)
	forms = slices.Compact(forms)
	a := new(automaton)
	a.addNodes(forms)
	a.addFallbacks()
	a.addGrams(forms)
	return a
}

// addNodes builds the tree from sorted forms: those with the same beginning are next to each other.
func (a *automaton) addNodes(forms []string) {
	a.nodes = append(a.nodes, node{})
	a.labels = append(a.labels, 0)
	level, next := [][]string{forms}, [][]string(nil) // by node of a level, and of the next one: the forms with that beginning
	for first, depth := 0, uint32(0); len(level) > 0; depth++ {
		children := first + len(level)
		for i, group := range level {
			n := &a.nodes[first+i]
			n.children = uint32(children + len(next))
			if len(group[0]) == int(depth) {
				n.ending = depth
				group = group[1:]
			}
			for len(group) > 0 {
				same := 1
				for same < len(group) && group[same][depth] == group[0][depth] {
					same++
				}
				next = append(next, group[:same])
				group = group[same:]
			}
		}
		for _, group := range next {
			a.nodes = append(a.nodes, node{depth: depth + 1})
			a.labels = append(a.labels, group[0][depth])
		}
		first, level, next = children, next, level[:0]
	}
	a.nodes = append(a.nodes, node{children: uint32(len(a.nodes))})
	a.nodes, a.labels = slices.Clip(a.nodes), slices.Clip(a.labels)
}

// addFallbacks sets the fallbacks level by level: a node's fallback is on a higher level.
func (a *automaton) addFallbacks() {
	for child := a.nodes[root].children; child < a.nodes[root+1].children; child++ {
		a.starts[a.labels[child]] = child
	}
	for i := root + 1; i < len(a.nodes)-1; i++ {
		for child := a.nodes[i].children; child < a.nodes[i+1].children; child++ {
			n := &a.nodes[child]
			n.fallback = a.next(a.nodes[i].fallback, a.labels[child])
			if n.ending == 0 {
				n.ending = a.nodes[n.fallback].ending
			}
		}
	}
}

// find appends the spans of the forms in text to spans, which must be empty. The node
// it returns is where the automaton is at the end of text, but only with toEnd.
func (a *automaton) find(spans []span, text []byte, toEnd bool) ([]span, uint32) {
	at := uint32(root)
	for i := 0; ; i++ {
		if at == root {
			i = a.candidate(text, i)
			if !toEnd && i+a.window > len(text) {
				return spans, root
			}
		}
		if i == len(text) {
			return spans, at
		}
		at = a.next(at, text[i])
		if length := a.ending(at); length > 0 {
			spans = cover(spans, span{i + 1 - length, i + 1})
		}
	}
}

// next returns where the automaton is after the byte c.
func (a *automaton) next(at uint32, c byte) uint32 {
	for at != root {
		first, end := a.nodes[at].children, a.nodes[at+1].children
		if end-first == 1 {
			if a.labels[first] == c {
				return first
			}
		} else if i := bytes.IndexByte(a.labels[first:end], c); i >= 0 {
			return first + uint32(i)
		}
		at = a.nodes[at].fallback
	}
	return a.starts[c]
}

func (a *automaton) depth(at uint32) int  { return int(a.nodes[at].depth) }
func (a *automaton) ending(at uint32) int { return int(a.nodes[at].ending) }

// A gram is 4 consecutive bytes of a text, as a number. The window of a form is its beginning. A table has
// all grams of all windows. If a text contains a form, then of every stride consecutive grams near its
// beginning, one is completely in the form's window. So it is enough to look up every stride-th gram of a
// text: if it is not in the table, no form begins near it.
const (
	gramSize  = 4
	gramBits  = 1 << 16 // 8 KiB, a part of the processor's first cache
	maxWindow = 16      // with a larger one, the table gets full, and other grams are found accidentally
)

// gramBit maps a gram to a bit of the table. The factor, 2^32 divided by the golden
// ratio, spreads similar grams (Knuth, The Art of Computer Programming, 6.4).
func gramBit(gram uint32) uint32 { return gram * 0x9E3779B1 >> 16 }

// stride returns how many grams a window has.
func (a *automaton) stride() int { return a.window - gramSize + 1 }

func (a *automaton) addGrams(forms []string) {
	a.window = maxWindow
	for _, form := range forms {
		a.window = min(a.window, len(form))
	}
	for _, form := range forms {
		for i := range a.stride() {
			bit := gramBit(binary.LittleEndian.Uint32([]byte(form[i : i+gramSize])))
			a.grams[bit/8] |= 1 << (bit % 8)
		}
	}
}

// candidate returns the first index, from i on, at which a form may begin. If there is none, it returns an
// index so near the end of text that no form can end in it.
func (a *automaton) candidate(text []byte, i int) int {
	stride := a.stride()
	last := i + stride - 1
	for ; last+gramSize <= len(text); last += stride {
		bit := gramBit(binary.LittleEndian.Uint32(text[last:]))
		if a.grams[bit/8]&(1<<(bit%8)) != 0 {
			break
		}
	}
	return last - (stride - 1)
}
