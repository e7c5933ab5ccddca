package orchestrator

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/docker/docker/client"
)

// TestUnsureExit has an engine notice the end of a container and fail to say which, as Podman
// does at times: it is asked once more.
func TestUnsureExit(t *testing.T) {
	const unsure, sure = `{"StatusCode":0,"Error":{"Message":"invalid character"}}`, `{"StatusCode":3}`
	for _, test := range []struct {
		answers []string
		want    exit
		failed  bool
	}{
		{[]string{sure}, exit{code: 3}, false},
		{[]string{unsure, sure}, exit{code: 3}, false},
		{[]string{unsure, unsure, sure}, exit{}, true},
	} {
		answers := test.answers
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, answers[0])
			answers = answers[1:]
		}))
		c, err := client.NewClientWithOpts(client.WithHost(strings.Replace(server.URL, "http", "tcp", 1)), client.WithVersion("1.41"))
		if err != nil {
			t.Fatal(err)
		}
		got := <-(&docker{client: c}).awaitNextExit(t.Context(), "some")
		if got.code != test.want.code || (got.err != nil) != test.failed {
			t.Errorf("%q: %+v", test.answers, got)
		}
		c.Close()
		server.Close()
	}
}
