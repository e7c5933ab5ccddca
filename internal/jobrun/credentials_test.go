package jobrun

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"testing"
)

// TestLoginFor asks for the credentials of hosts. Those of the repository are for its own host only, and also for https
// if a server of http redirects there.
func TestLoginFor(t *testing.T) {
	for _, test := range []struct {
		repository, asked string
		want              bool
	}{
		{"https://host/a", "https://host", true},
		{"https://host/a", "https://HOST", true},
		{"https://host/a", "https://host:443", true},
		{"https://host:443/a", "https://host", true},
		{"https://host:8443/a", "https://host:8443", true},
		{"https://host:8443/a", "https://host", false},
		{"https://host/a", "https://host:8443", false},
		{"https://host/a", "http://host", false},
		{"https://host/a", "https://host.example.com", false},
		{"https://host/a", "https://other", false},
		{"http://host/a", "http://host", true},
		{"http://host/a", "http://host:80", true},
		{"http://host/a", "https://host", true},
		{"http://host:80/a", "https://host:443", true},
		{"http://host/a", "https://other", false},
		{"http://host/a", "https://host:8443", false},
		{"http://host:8080/a", "https://host", false},
		{"http://[::1]:8080/a", "http://[::1]:8080", true},
		{"http://[::1]:8080/a", "http://[::2]:8080", false},
	} {
		c := &credentials{user: "me", key: "key", origin: repositoryURL(test.repository)}
		asked, err := url.Parse(test.asked)
		if err != nil {
			t.Fatal(err)
		}
		user, key, ok := c.loginFor(asked)
		if ok != test.want || ok && (user != "me" || key != "key") {
			t.Errorf("%s asks for %s: %q, %q, %t", test.repository, test.asked, user, key, ok)
		}
	}
}

// TestAnswer has git ask for credentials, in its own words. Before 2.48.1, git does not encode the user of a URL, which
// the owner of a submodule, a flake input or an .lfsconfig can choose: after a slash in it, the question names the
// repository's host first, although git has connected to another one.
func TestAnswer(t *testing.T) {
	for question, want := range map[string]string{
		"Username for 'https://host': ":    "me\n",
		"Password for 'https://me@host': ": "key\n",
		// With git's setting credential.useHttpPath.
		"Username for 'https://host/group/app.git': ": "me\n",
		// Of https://other%40host%27, and of https://a%40host%2F@evil and the like.
		"Password for 'https://a@host'@evil': ":    "",
		"Password for 'https://a@host/@evil': ":    "",
		"Password for 'https://a@host?@evil': ":    "",
		"Password for 'https://a@host#@evil': ":    "",
		"Password for 'https://a@host/b?c#d@evil'": "",
		"Username for 'https://host/@evil': ":      "",
		// As git encodes it since then.
		"Password for 'https://a%40host%2F@evil': ": "",
		"Password for 'https://a%40evil%2F@host': ": "key\n",
		"Password for \"https://a@host\": ":         "",
		"Are you sure? ":                            "",
	} {
		c := &credentials{user: "me", key: "key", origin: repositoryURL("https://host/app")}
		git, program := net.Pipe()
		go func() {
			defer program.Close()
			c.answer(program)
		}()
		fmt.Fprintln(git, question)
		answer, err := io.ReadAll(git)
		if string(answer) != want || err != nil {
			t.Errorf("%s is answered with %q, want %q; %v", question, answer, want, err)
		}
	}
}

// TestInsteadOfSSH checks which ssh addresses git replaces by the repository's host.
func TestInsteadOfSSH(t *testing.T) {
	t.Setenv("GIT_CONFIG_COUNT", "")
	for repository, host := range map[string]string{"https://host:8443/a": "host", "https://host/a": "host", "http://[::1]:80/a": "[::1]", "http://[::1]/a": "[::1]"} {
		c := &credentials{origin: repositoryURL(repository)}
		got := c.insteadOfSSH()
		for i, form := range []string{"git@" + host + ":", "ssh://git@" + host + "/", "ssh://" + host + "/"} {
			if want := "GIT_CONFIG_VALUE_" + string(rune('0'+i)) + "=" + form; !slices.Contains(got, want) {
				t.Errorf("%s: %q has no %s", repository, got, want)
			}
		}
	}
}
