package jobrun

import (
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
