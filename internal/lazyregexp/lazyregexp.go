// Package lazyregexp compiles regular expressions when they are first used. Every job starts this
// program twice, in its container, and needs few of them: compiling all at the start took longer than
// the rest of the start.
package lazyregexp

import (
	"regexp"
	"sync"
)

// New returns a function that returns the compiled expression. It panics if that does not compile.
// It is for package-level variables.
func New(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
