package cachix

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An error repeats the beginning of a server's message, on one line and without what can be a secret.
func TestExcerpt(t *testing.T) {
	const token = "a token/+"
	x := func(n int) string { return strings.Repeat("é", n) }
	for text, want := range map[string]string{
		"":                                     "",
		" not\n\tallowed\x00here\x1b[0m ":      "not allowed here [0m",
		"key a token/+ is wrong":               "key *** is wrong",
		"a+token%2F%2B or a%20token%2F+":       "*** or ***",
		"see https://s3.example/a?signature=b": "see https://s3.example/a?…",
		"at https://user:word@s3.example/a?b":  "at https://…@s3.example/a?…",
		"at https://user:w@rd@s3.example/a":    "at https://…@s3.example/a",
		x(200):                                 x(200),
		x(201):                                 x(200) + "…",
	} {
		client := &transport{secrets: secretReplacer(token)}
		if got := client.excerpt([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := (&transport{secrets: secretReplacer("")}).excerpt([]byte("not allowed")); got != "not allowed" {
		t.Errorf("without a token: %q", got)
	}
}

// An error about a redirect has its host, but not its path and query.
func TestRedirection(t *testing.T) {
	for location, want := range map[string]string{
		"https://other.example:8443/a?key=secret": "it redirects to https://other.example:8443",
		"/login?key=secret":                       "it redirects to https://cache.example",
		"":                                        "",
		"http://%zz":                              "",
	} {
		response := &http.Response{Header: http.Header{}, Request: &http.Request{URL: &url.URL{Scheme: "https", Host: "cache.example", Path: "/default"}}}
		if location != "" {
			response.Header.Set("Location", location)
		}
		if got := redirection(response); got != want {
			t.Errorf("%q: %q, want %q", location, got, want)
		}
	}
}

// A server can repeat the API key where it is part of an error of the network, or of the address to which it redirects.
func TestKeyInAnswer(t *testing.T) {
	for name, answer := range map[string]string{
		"status":   "HTTP/1.1 " + token + "\r\n\r\n",
		"protocol": token + "\r\n\r\n",
		"header":   "HTTP/1.1 200 OK\r\n" + token + "\r\n\r\n",
		"location": "HTTP/1.1 302 Found\r\nLocation: http://" + url.PathEscape(token) + ".example/\r\nContent-Length: 0\r\n\r\n",
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					io.WriteString(conn, answer)
				}
				conn.Close()
			}
		}()
		_, err = newClient(t, "http://"+listener.Addr().String()+"/default", quick()).Cache(t.Context())
		listener.Close()
		<-served
		if err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), url.PathEscape(token)) || !strings.Contains(err.Error(), "***") {
			t.Errorf("%s: %v", name, err)
		}
	}
	const plain = "plain-token"
	response := &http.Response{StatusCode: 302, Header: http.Header{"Location": {"https://" + plain + ".example/"}}, Request: &http.Request{URL: &url.URL{}}}
	if got := (&transport{secrets: secretReplacer(plain)}).answered("", response, nil).Detail; got != "it redirects to https://***.example" {
		t.Errorf("of a redirect: %q", got)
	}
}

// A narinfo has a field in each line. Empty lines are ignored, and other lines are an error.
func TestParseNarInfo(t *testing.T) {
	got, err := parseNarInfo("StorePath: /nix/store/a\r\n\nSig: a:b\nSig: c:d\n\r\nReferences: \nDeriver:x:y")
	want := narInfoFields{"StorePath": {"/nix/store/a"}, "Sig": {"a:b", "c:d"}, "References": {""}, "Deriver": {"x:y"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if got, err := parseNarInfo("StorePath: /nix/store/a\n<html>\n"); err == nil || !strings.Contains(err.Error(), `"<html>"`) {
		t.Errorf("of a page: %v, error %v", got, err)
	}
}

// A narinfo may have 16 signatures: a cache that has thousands, and as many keys, would keep a job busy for hours.
func TestMaxSignatures(t *testing.T) {
	key, p := newKey(t), small(t).Path
	fields := narInfoFields{"Sig": slices.Repeat([]string{"other-1:" + newKey(t).Sign(p.Fingerprint())}, maxSignatures-1)}
	fields["Sig"] = append(fields["Sig"], "default:"+key.Sign(p.Fingerprint()))
	if err := fields.checkSignature(p, "", publicOf(key)); err != nil {
		t.Errorf("with %d signatures: %v", len(fields["Sig"]), err)
	}
	fields["Sig"] = slices.Repeat(fields["Sig"][maxSignatures-1:], maxSignatures+1)
	if err := fields.checkSignature(p, "", publicOf(key)); err == nil || err.Error() != "it has 17 signatures, and may have 16" {
		t.Errorf("with %d signatures: %v", len(fields["Sig"]), err)
	}
}
