package redact_test

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"

	"iglu.sh/builder/internal/redact"
)

// A secret is masked as it is, and as tools commonly print it.
func Example() {
	const apiKey = "s3cret/api-key"
	secrets := redact.New(apiKey)

	fmt.Println(secrets.String("the key is " + apiKey))
	fmt.Println(secrets.String("Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+apiKey))))
	fmt.Println(secrets.String("GET /?key=s3cret%2Fapi-key"))
	fmt.Println(secrets.String("any password in a URL: https://user:whatever@example.com/"))
	// Output:
	// the key is ***
	// Authorization: Basic dXNlcjp***
	// GET /?key=***
	// any password in a URL: https://user:***@example.com/
}

// The lines of a stream go through one Lines, so that a secret is found that is wrapped over several of them.
func ExampleRedactor_Lines() {
	lines := redact.New("first line of a key\nsecond line of a key").Lines()
	for _, line := range []string{"the key:", "first line of a key", "second line of a key", "done"} {
		fmt.Printf("%s\n", lines.Append(nil, []byte(line), false))
	}
	// Output:
	// the key:
	// ***
	// ***
	// done
}

// Handler masks the secrets of a job in the server's own log.
func ExampleRedactor_Handler() {
	text := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	log := slog.New(redact.New("s3cret-api-key").Handler(text))
	log.Error("cannot push", "err", fmt.Errorf("401: no such key: s3cret-api-key"))
	// Output:
	// level=ERROR msg="cannot push" err="401: no such key: ***"
}
