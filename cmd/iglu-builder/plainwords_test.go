package main

import (
	"strings"
	"testing"
	"unicode"
)

// plainWords are phrases that take two readings, each with what to say instead. They are phrases that the
// documents had, so the list grows with those that a reader stumbles over. It has no common words:
// "stands", "goes" and "comes" are fine where they are literal.
var plainWords = []struct{ phrase, instead string }{
	{"goes at once", "is deleted immediately"},
	{"go first", "are removed first"},
	{"has to go", "must be removed"},
	{"is gone with it", "is removed with it"},
	{"its next life", "the builder after a restart"},
	{"a job's life", "a job, from its acceptance to its end"},
	{"lives by itself", "does not depend on a connection"},
	{"lets go", "releases"},
	{"is let go", "is disconnected"},
	{"are let go", "are disconnected"},
	{"puts away", "saves"},
	{"nothing runs now", "no job is running"},
	{"whoever", "anyone who, or the name of the person or program"},
	{"to who may", "to everyone who may"},
	{"for who", "for everyone who"},
	{"who comes next", "the next job, or the next user"},
	{"is no reason not to", "is ignored"},
	{"by chance", "accidentally"},
	{"its own doing", "its own fault"},
	{"own affair", "internal to, or only for"},
	{"came of it", "its result"},
	{"comes of", "results from"},
	{"comes upon", "finds, or opens"},
	{"for want of", "because … is missing"},
	{"hold up", "delay"},
	{"holds up", "delays"},
	{"lies in", "is in"},
	{"lies on", "is on"},
	{"lie in", "are in"},
	{"lie on", "are on"},
	{"lies beside", "is in the same folder as"},
	{"stands in", "is in, or replaces"},
	{"stand in", "are in"},
	{"stands in place of", "replaces"},
	{"stands for what", "means"},
	{"stand-in", "replacement"},
	{"beside it", "next to it, or besides it"},
	{"beside them", "next to them, or besides them"},
	{"beside that", "besides that"},
	{"beside the other", "in the same folder"},
	{"are told so", "are informed"},
	{"is told so", "gets a message that says so"},
	{"is told of", "is reported"},
	{"tells of", "reports"},
	{"is not to be had", "is not available"},
	{"can be had", "is available"},
	{"cannot be had", "cannot be fetched, or is not available"},
	{"has a place for", "has a slot for"},
	{"has no place for", "has no slot for"},
	{"warns of", "warns about"},
	{"takes no job", "accepts no job"},
	{"takes no more jobs", "accepts no more jobs"},
	{"the builder's numbers", "the metrics"},
	{"how a job is", "the state of a job"},
	{"how far it is", "its progress"},
	{"how far the job is", "the job's progress"},
	{"in the form of", "in the format of"},
	{"in line", "in a queue"},
	{"is taken for", "is mistaken for, or counts as"},

	// The words of an earlier version of the code.
	{"crowd", "connection limiter"},
	{"patience", "idle timeout"},
	{"upkeep", "maintenance"},
	{"settling", "cleanup"},
	{"ledger", "store metadata"},
	{"is sound", "is clean"},
	{"suspect", "unverified"},
	{"in whose filling", "whose creation"},
	{"teller", "reporter"},
}

// TestPlainWords finds these phrases in the documents. What is shown as code is as the program prints it.
func TestPlainWords(t *testing.T) {
	for _, name := range documents(t) {
		text, lines := words(prose(t, name))
		for _, words := range plainWords {
			rest, passed := text, 0
			for {
				before, after, found := strings.Cut(rest, " "+words.phrase+" ")
				if !found {
					break
				}
				passed += strings.Count(before, " ")
				t.Errorf("%s:%d: %q: say %q", name, lines[passed], words.phrase, words.instead)
				passed += strings.Count(words.phrase, " ") + 1
				rest = " " + after
			}
		}
	}
}

// words returns the words of a text in small letters, with a space before and after each, and the line of each.
// The end of a clause is a word as well, and so is what was code.
func words(text string) (joined string, lines []int) {
	var b strings.Builder
	add := func(word string, line int) {
		b.WriteString(" " + word)
		lines = append(lines, line)
	}
	for i, line := range strings.Split(text, "\n") {
		for _, word := range strings.FieldsFunc(strings.ToLower(line), isAround) {
			bare := strings.TrimRight(word, ".,;:!?")
			add(bare, i+1)
			if bare != word {
				add(".", i+1)
			}
		}
	}
	return b.String() + " ", lines
}

// isAround reports whether a character is between words, or marks them.
func isAround(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`()[]{}"*_|`, r) }
