package web

import (
	"html/template"
	"net/url"
	"strings"
)

// A forge has the parts of the addresses of pages on a host of git repositories: between the repository and a
// branch or a tag, and before a commit.
type forge struct{ branch, commit string }

// forges are the known hosts, by name.
var forges = map[string]forge{
	"github.com":    {"/tree/", "/commit/"},
	"gitlab.com":    {"/-/tree/", "/-/commit/"},
	"codeberg.org":  {"/src/", "/commit/"},
	"gitea.com":     {"/src/", "/commit/"},
	"bitbucket.org": {"/src/", "/commits/"},
	"git.sr.ht":     {"/tree/", "/commit/"},
}

// links are the addresses of pages about a job's source; empty where they are not known.
type links struct{ Repository, Branch, Commit template.URL }

// linksTo returns the addresses of the pages of a repository, a branch or tag of it, and a commit.
func linksTo(repository, branch, commit string) (l links) {
	host, path := splitRepository(repository)
	f, known := forges[host]
	if !known || path == "" {
		return l
	}
	base := (&url.URL{Scheme: "https", Host: host, Path: "/" + path}).String()
	l.Repository = template.URL(base)
	if name := strings.TrimPrefix(strings.TrimPrefix(branch, "refs/heads/"), "refs/tags/"); name != "" {
		l.Branch = template.URL(base + f.branch + (&url.URL{Path: name}).EscapedPath()) // keep its slashes
	}
	if commit != "" {
		l.Commit = template.URL(base + f.commit + url.PathEscape(commit))
	}
	return l
}

// splitRepository returns the host of a repository, with its port if it has one, and its path there, without
// user, slashes at the ends, and ".git".
func splitRepository(repository string) (host, path string) {
	if _, rest, isURL := strings.Cut(repository, "://"); isURL {
		host, path, _ = strings.Cut(rest, "/")
	} else if host, path, isURL = strings.Cut(repository, ":"); !isURL { // the short form for ssh
		return "", repository
	}
	host = host[strings.LastIndexByte(host, '@')+1:]
	return strings.ToLower(host), strings.TrimSuffix(strings.Trim(path, "/"), ".git")
}

// shortRepository returns a short form of a repository.
func shortRepository(repository string) string {
	host, path := splitRepository(repository)
	return strings.Trim(host+"/"+path, "/")
}
