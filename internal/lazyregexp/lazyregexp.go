// Package lazyregexp compiles regular expressions when they are first used. Every job starts this program twice in its
// container, and uses few of the expressions. Compiling all of them took longer than the rest of the program's start.
package lazyregexp

import (
	"regexp"
	"sync"
)

// New returns a function that returns the compiled expression. That function panics if the expression is invalid.
// New is for package-level variables.
func New(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
