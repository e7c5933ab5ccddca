package schemas

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// All passwords of a netrc file are masked in the log. A text with an error is refused.
func TestNetrcPasswords(t *testing.T) {
	const (
		cut     = "ends in the middle of an entry"
		noEntry = "must begin with machine, and a host"
		// GitHub takes a token as the user, with any password.
		asUser     = "ghp_0123456789abcdef0123456789abcdef0123"
		notEntries = "must be of entries such as: machine cache.example.com login NAME password PASSWORD"
	)
	for text, want := range map[string]struct {
		passwords []string
		err       string
	}{
		"":                                     {},
		"machine a login b password c":         {[]string{"c"}, ""},
		"machine a\n\tlogin b\n\tpassword c\n": {[]string{"c"}, ""},
		"machine a password b\r\nmachine c account d password e\r\n": {[]string{"b", "d", "e"}, ""},
		"default login a password b":                                 {[]string{"b"}, ""},
		"machine a login password password login":                    {[]string{"login"}, ""},
		"machine a password default":                                 {[]string{"default"}, ""},
		"machine a login " + asUser + " password x-oauth-basic":      {[]string{asUser, "x-oauth-basic"}, ""},
		"# password x\nmachine a # password":                         {nil, notEntries}, // a comment is a whole line
		" \t# machine a password x\ndefault account b":               {[]string{"b"}, ""},
		`machine a password "b c" account "d\"e\\f"`:                 {[]string{"b c", `d"e\f`}, ""},
		`machine a password "\n\r\t\x"`:                              {[]string{"\n\r\tx"}, ""},
		`machine a password ""login b`:                               {[]string{""}, ""},
		`machine a password b"c d" e`:                                {[]string{`b"c`}, notEntries}, // a quote in a word is part of it
		`machine a password "b`:                                      {[]string{"b"}, ""},
		`machine a password "b\`:                                     {[]string{`b\`}, ""},
		"machine":                                                    {nil, cut},
		"machine a password":                                         {nil, cut},
		"machine a password b login":                                 {[]string{"b"}, cut},
		"login a machine b":                                          {nil, noEntry},
		"password a":                                                 {nil, noEntry},
		"machine a macdef init":                                      {nil, notEntries},
		"https://a.example token":                                    {nil, notEntries},
	} {
		got, err := netrcPasswords(text)
		if diff := cmp.Diff(want.passwords, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
		if message := errorText(err); message != want.err {
			t.Errorf("%q: error %q, want %q", text, message, want.err)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestNetrcHas(t *testing.T) {
	const netrc = "machine a.example login b password c\n# machine commented.example\nmachine d.example\ndefault"
	for host, want := range map[string]bool{
		"a.example": true, "A.Example": true, "d.example": true,
		"b": false, "login": false, "commented.example": false, "e.example": false, "default": false, "": false,
	} {
		if got := NetrcHas(netrc, host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
	if NetrcHas("", "") || NetrcHas("machine", "") {
		t.Error("a text without a host has one")
	}
}
