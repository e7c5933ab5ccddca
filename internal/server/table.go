package server

import (
	"slices"

	"github.com/spf13/pflag"
)

// A Setting is a row of the table of settings. Flags, variables and completion are made from it, and
// the options of the NixOS module. Tests hold the documentation, docker-compose.yml and the unit for
// systemd against it.
type Setting struct {
	Flag, Env string
	Default   string
	Usage     string // for people; the value's name is in backquotes
	Kind      Kind
}

// Table returns the settings of the server, in the order of Register.
func Table() []Setting {
	var s Settings
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.SortFlags = false
	s.Register(flags)
	var table []Setting
	flags.VisitAll(func(f *pflag.Flag) {
		kind := f.Value.(interface{ Kind() Kind }).Kind()
		table = append(table, Setting{f.Name, EnvName(f.Name), f.DefValue, f.Usage, kind})
	})
	return table
}

// A Type is what the values of a setting are, apart from words that it takes as well.
type Type string

// The types.
const (
	Word   Type = "word"   // nothing but the words of its kind
	YesNo  Type = "yes|no" // a word as well
	Text   Type = "text"
	Number Type = "number"
	List   Type = "list" // texts separated by commas
	File   Type = "file"
	Folder Type = "folder"
)

// A Kind says how the values of a setting are written, for tools. What the setting takes, its parser
// decides: it may refuse a number that is too large, or understand one more spelling.
type Kind struct {
	Type     Type
	Words    []string // words that it takes, whatever its type
	Min, Max int64    // of a Number
	// Form is a regular expression, which a Text matches as a whole; empty: any text does. It is
	// one of RE2's and of POSIX' extended ones alike.
	Form string
}

// or returns a kind that takes some words, too.
func (k Kind) or(words ...string) Kind {
	k.Words = append(slices.Clone(k.Words), words...)
	return k
}

// The kinds that several settings have.
var (
	anyText  = Kind{Type: Text}
	yesNo    = Kind{Type: YesNo, Words: []string{"yes", "no"}}
	list     = Kind{Type: List}
	file     = Kind{Type: File}
	folder   = Kind{Type: Folder}
	duration = Kind{Type: Text, Form: `([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+`}
	size     = Kind{Type: Text, Form: sizeForm}
	memory   = Kind{Type: Text, Form: sizeForm + `|` + shareOf}
	cpus     = Kind{Type: Text, Form: `[0-9]+(\.[0-9]+)?|` + shareOf}
)

const (
	sizeForm = `[0-9]+(\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?`
	shareOf  = `[0-9]+%`
)

func number(least, most int64) Kind { return Kind{Type: Number, Min: least, Max: most} }

func matching(form string) Kind { return Kind{Type: Text, Form: form} }
