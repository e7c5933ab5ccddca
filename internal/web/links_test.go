package web

import (
	"html/template"
	"testing"
)

func TestLinks(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	for _, test := range []struct{ repository, branch, page, branchPage, commitPage string }{
		{"https://github.com/iglu-sh/builder.git", "main", "https://github.com/iglu-sh/builder", "/tree/main", "/commit/" + commit},
		{"git@github.com:iglu-sh/builder.git", "feature/a b?c#d", "https://github.com/iglu-sh/builder", "/tree/feature/a%20b%3Fc%23d", "/commit/" + commit},
		{"ssh://git@gitlab.com/group/sub/app", "refs/tags/v1", "https://gitlab.com/group/sub/app", "/-/tree/v1", "/-/commit/" + commit},
		{"https://codeberg.org/a/b/", "refs/heads/x", "https://codeberg.org/a/b", "/src/x", "/commit/" + commit},
		{"https://bitbucket.org/a/b", "", "https://bitbucket.org/a/b", "", "/commits/" + commit},
		{"https://git.sr.ht/~a/b", "main", "https://git.sr.ht/~a/b", "/tree/main", "/commit/" + commit},
		{"https://GitHub.com/a/\"><script>", "", "https://github.com/a/%22%3E%3Cscript%3E", "", "/commit/" + commit},
		{"https://github.com.evil.example/a/b", "main", "", "", ""},
		{"https://evil.example/github.com/a", "main", "", "", ""},
		{"javascript://github.com%0aalert(1)", "main", "", "", ""},
		{"https://github.com", "main", "", "", ""},
		{"/srv/git/app", "main", "", "", ""},
		{"", "", "", "", ""},
	} {
		got := linksTo(test.repository, test.branch, commit)
		want := links{Repository: got.Repository, Branch: got.Repository, Commit: got.Repository}
		if string(got.Repository) != test.page {
			t.Errorf("%s: the page is %q, want %q", test.repository, got.Repository, test.page)
		}
		if want.Branch += template.URL(test.branchPage); test.branchPage == "" {
			want.Branch = ""
		}
		if want.Commit += template.URL(test.commitPage); test.commitPage == "" {
			want.Commit = ""
		}
		if got != want {
			t.Errorf("%s: %q, want %q", test.repository, got, want)
		}
	}
}

func TestShortRepository(t *testing.T) {
	for repository, want := range map[string]string{
		"https://github.com/iglu-sh/builder.git": "github.com/iglu-sh/builder",
		"git@github.com:iglu-sh/builder":         "github.com/iglu-sh/builder",
		"ssh://git@host:2222/a/b/":               "host:2222/a/b",
		"file:///srv/app":                        "srv/app",
		"app":                                    "app",
		"":                                       "",
	} {
		if got := shortRepository(repository); got != want {
			t.Errorf("%s: %q, want %q", repository, got, want)
		}
	}
}
