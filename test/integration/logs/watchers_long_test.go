//go:build integration && long

package logs

import (
	"net/http"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestPageBehindDoor asks for everything without the token, and from a page of elsewhere.
func TestPageBehindDoor(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.TokenFile = fixture.TokenFile(t, fixture.GoodToken) })
	ask := func(method, path string, header http.Header) int {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != nil {
			request.Header = header
		}
		response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	token := http.Header{"Authorization": {"Bearer " + fixture.GoodToken}}
	elsewhere := http.Header{"Authorization": {"Bearer " + fixture.GoodToken}, "Origin": {"http://elsewhere.example"}}
	for _, test := range []struct {
		method, path string
		header       http.Header
		status       int
	}{
		{"GET", "/", nil, 401},
		{"GET", "/", http.Header{"Accept": {"text/html"}}, 303},
		{"GET", "/", token, 200},
		{"GET", "/new", nil, 401},
		{"GET", "/jobs/x", nil, 401},
		{"GET", "/api/v1/jobs", nil, 401},
		{"GET", "/api/v1/jobs", token, 200},
		{"GET", "/api/v1/jobs/x/log", nil, 401},
		{"GET", "/api/v1/jobs/x/lines", nil, 401},
		{"GET", "/api/v1/jobs/x/search?q=a", nil, 401},
		{"GET", "/api/v1/jobs/x/events", nil, 401},
		{"POST", "/api/v1/jobs/x/cancel", nil, 401},
		{"POST", "/api/v1/jobs/x/cancel", elsewhere, 403},
		{"POST", "/api/v1/jobs/x/cancel", token, 404},
		{"POST", "/login", elsewhere, 403},
		{"POST", "/logout", elsewhere, 403},
		{"GET", "/login", nil, 200},
		{"GET", "/assets/page.css", nil, 200},
		{"GET", "/assets/..%2ftemplates%2fhome.html", nil, 404},
		{"GET", "/nothing", nil, 401},
	} {
		if status := ask(test.method, test.path, test.header); status != test.status {
			t.Errorf("%s %s with %v: status %d, want %d", test.method, test.path, test.header, status, test.status)
		}
	}
}
