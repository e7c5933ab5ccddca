package server

import (
	"slices"

	"github.com/spf13/pflag"
)

// A Setting is a row of the table of settings. Flags, environment variables, shell completion and the options
// of the NixOS module are made from the table. Tests compare the documentation, docker-compose.yml and the
// systemd unit with it.
type Setting struct {
	Flag, Env string
	Default   string
	Usage     string // a phrase for people, such as "image that jobs run in"
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

// A Type says what the values of a setting are, except for the words that it takes as well.
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

// A Kind says how the values of a setting are written, for tools. The setting's parser decides what is
// valid: it may refuse a number that is too large, or accept one more spelling.
type Kind struct {
	Type Type
	// Placeholder is what --help shows for a value: kinds of values in capitals and words, as in DURATION|off.
	Placeholder string
	Words       []string // words that the setting takes, whatever its type
	Min, Max    int64    // of a Number
	// Form is a regular expression that matches the whole of a Text; empty: any text is valid. Its syntax
	// is valid for RE2 and as a POSIX extended regular expression.
	Form string
}

// or returns a kind that also takes some words.
func (k Kind) or(words ...string) Kind {
	k.Words = append(slices.Clone(k.Words), words...)
	for _, word := range words {
		if k.Placeholder != "" {
			k.Placeholder += "|"
		}
		k.Placeholder += word
	}
	return k
}

// The kinds that several settings have.
var (
	yesNo    = Kind{Type: YesNo}.or("yes", "no")
	list     = Kind{Type: List, Placeholder: "LIST"}
	file     = Kind{Type: File, Placeholder: "FILE"}
	folder   = Kind{Type: Folder, Placeholder: "FOLDER"}
	duration = matching("DURATION", `([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+`)
	size     = matching("SIZE", sizeForm)
	memory   = matching("SIZE|PERCENT", sizeForm+`|`+shareOf)
	cpus     = matching("COUNT|PERCENT", `[0-9]+(\.[0-9]+)?|`+shareOf)
)

const (
	sizeForm = `[0-9]+(\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?`
	shareOf  = `[0-9]+%`
)

func number(least, most int64) Kind {
	return Kind{Type: Number, Placeholder: "COUNT", Min: least, Max: most}
}

func anyText(placeholder string) Kind { return Kind{Type: Text, Placeholder: placeholder} }

func matching(placeholder, form string) Kind {
	return Kind{Type: Text, Placeholder: placeholder, Form: form}
}
