package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// TestHealthcheck checks servers with different answers.
func TestHealthcheck(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/readyz", "/behind/a/proxy/readyz":
		case "/stopping/readyz":
			http.Error(w, "The builder is shutting down.\x1b[2J", http.StatusServiceUnavailable)
		case "/silent/readyz":
			w.WriteHeader(http.StatusNoContent)
		case "/elsewhere/readyz":
			w.Header().Set("Location", "/readyz")
			w.WriteHeader(http.StatusFound)
		default:
			t.Errorf("asked for %s", r.URL.Path)
		}
	})
	plain, encrypted, gone := httptest.NewServer(handler), httptest.NewUnstartedServer(handler), httptest.NewServer(handler)
	encrypted.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it
	encrypted.StartTLS()
	gone.Close()
	defer plain.Close()
	defer encrypted.Close()
	address := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	_, port, _ := strings.Cut(address(plain), ":")

	for _, test := range []struct {
		name         string
		listen, cert string // the variables
		args         []string
		want         string // on standard error; empty: healthy
	}{
		{"own address", address(plain), "", nil, ""},
		{"all addresses", ":" + port, "", nil, ""},
		{"all IPv4 addresses", "0.0.0.0:" + port, "", nil, ""},
		{"all IPv6 addresses", "[::]:" + port, "", nil, ""},
		{"own address with TLS", address(encrypted), "cert.pem", nil, ""},
		{"URL", "127.0.0.1:1", "cert.pem", []string{"--url", plain.URL}, ""},
		{"address", "", "", []string{"--url", address(plain)}, ""},
		{"URL of a client", "", "", []string{"--url", "ws://" + address(plain) + "/api/v1/build"}, ""},
		{"URL with a path", "", "", []string{"--url", plain.URL + "/behind/a/proxy/"}, ""},
		{"stopping", "", "", []string{"--url", plain.URL + "/stopping"}, plain.URL + "/stopping/readyz answers 503 Service Unavailable: The builder is shutting down.^[[2J\n"},
		{"no words", "", "", []string{"--url", plain.URL + "/silent"}, plain.URL + "/silent/readyz answers 204 No Content: (nothing more)\n"},
		{"redirect", "", "", []string{"--url", plain.URL + "/elsewhere"}, plain.URL + "/elsewhere/readyz answers 302 Found: (nothing more)\n"},
		{"nobody", address(gone), "", nil, "no builder answers at " + gone.URL + "/readyz: dial tcp " + address(gone) + ": connect: connection refused\n"},
		{"TLS where none is", address(plain), "cert.pem", nil, "no builder answers at https://" + address(plain) + "/readyz: "},
		{"URL with an unknown certificate", "", "", []string{"--url", encrypted.URL}, "no builder answers at " + encrypted.URL + "/readyz: tls: failed to verify certificate"},
		{"any port", "127.0.0.1:0", "", nil, "IGLU_LISTEN has port 0, which means any free port\nhint: give the builder's address with --url; the builder's log says which it is\n"},
		{"bad variable", "3000", "", nil, `IGLU_LISTEN: "3000" is not an address such as 127.0.0.1:3000 or :3000` + "\n"},
		{"bad URL", "", "", []string{"--url", "builder"}, `--url: "builder" is not the address of a builder: give HOST:PORT`},
		{"bad flag", "", "", []string{"--no-such-flag"}, "unknown flag: --no-such-flag\nhint: see 'iglu-builder healthcheck --help'\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("IGLU_LISTEN", test.listen)
			t.Setenv("IGLU_TLS_CERT", test.cert)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"healthcheck"}, test.args...), nil, &stdout, &stderr)
			healthy := code == 0 && stderr.Len() == 0
			unhealthy := code == 1 && strings.HasPrefix(stderr.String(), "iglu-builder healthcheck: "+test.want)
			if stdout.Len() > 0 || test.want == "" && !healthy || test.want != "" && !unhealthy {
				t.Errorf("exit code %d, standard error %q, want %q", code, &stderr, test.want)
			}
		})
	}
}

// TestHealthcheckTimeout checks a builder that does not answer in time.
func TestHealthcheckTimeout(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Time{})
	defer cancel()
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"healthcheck", "--url", "127.0.0.1:1"}, nil, &stdout, &stderr)
	if want := "iglu-builder healthcheck: http://127.0.0.1:1/readyz does not answer within 4s\n"; code != 1 || stderr.String() != want {
		t.Errorf("exit code %d, standard error %q, want %q", code, &stderr, want)
	}
}

// TestHealthcheckOfImage compares the health check of the images with their program.
func TestHealthcheckOfImage(t *testing.T) {
	for _, file := range []string{"../../images/Dockerfile", "../../images/release.Dockerfile"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`CMD ["/iglu-builder", "healthcheck"]` + "\n", `ENTRYPOINT ["/iglu-builder"]` + "\n"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: no line ends with %s", file, want)
			}
		}
	}
}
