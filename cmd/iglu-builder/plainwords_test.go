package main

import (
	"regexp"
	"strings"
	"testing"
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
	instead := make(map[string]string)
	var phrases []string
	for _, words := range plainWords {
		instead[words.phrase] = words.instead
		phrases = append(phrases, strings.ReplaceAll(regexp.QuoteMeta(words.phrase), " ", `\s+`))
	}
	pattern := regexp.MustCompile(`(?i)\b(` + strings.Join(phrases, "|") + `)\b`)
	for _, name := range documents(t) {
		text := prose(t, name)
		for _, found := range pattern.FindAllStringIndex(text, -1) {
			line := 1 + strings.Count(text[:found[0]], "\n")
			phrase := strings.Join(strings.Fields(strings.ToLower(text[found[0]:found[1]])), " ")
			t.Errorf("%s:%d: %q: say %q", name, line, phrase, instead[phrase])
		}
	}
}
