package fakeengine

import (
	"bufio"
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/textproto"
	"path"
	"strconv"
	"strings"
	"sync"
)

// What recorded answers have in the place of what is different each time.
const (
	ImageRef      = "registry.invalid/iglu/recorded:1"
	ContainerID   = "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0"
	ContainerName = "iglu-recorded-container"
	NetworkID     = "beefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeef"
	NetworkName   = "iglu-recorded-network"
	VolumeName    = "iglu-recorded-volume"
	MissingName   = "iglu-recorded-missing"
)

// The engines whose answers are recorded.
const (
	Docker = "docker-20.10.24"
	Podman = "podman-4.3.1"
)

//go:embed testdata/*.txt
var recordings embed.FS

// An answer is what an engine says to a call.
type answer struct {
	status int
	header http.Header
	body   []byte
	later  func() []byte // the body, when it is known: the head is sent before
	taken  func(*conn)   // is given the connection before the head is sent
	stream func(*conn)   // has the connection when the head is sent
}

// answers are those of one engine, by their names in its recording.
type answers map[string]answer

// recorded holds what was read of recordings.
var recorded sync.Map

// answersOf returns what was recorded of an engine.
func answersOf(engine string) (answers, error) {
	if all, ok := recorded.Load(engine); ok {
		return all.(answers), nil
	}
	all, err := readAnswers(engine)
	if err == nil {
		recorded.Store(engine, all)
	}
	return all, err
}

func readAnswers(engine string) (answers, error) {
	text, err := fs.ReadFile(recordings, path.Join("testdata", engine+".txt"))
	if err != nil {
		return nil, err
	}
	all := make(answers)
	for section := range strings.SplitSeq(string(text), "-- ") {
		name, section, ok := strings.Cut(section, " --\n")
		if !ok {
			continue
		}
		if all[name], err = parseAnswer(section); err != nil {
			return nil, fmt.Errorf("%s: answer %s: %w", engine, name, err)
		}
	}
	return all, nil
}

// parseAnswer reads a status, headers, and after an empty line the body.
func parseAnswer(text string) (a answer, err error) {
	status, rest, _ := strings.Cut(text, "\n")
	if a.status, err = strconv.Atoi(status[:min(3, len(status))]); err != nil {
		return a, err
	}
	r := bufio.NewReader(strings.NewReader(rest))
	header, err := textproto.NewReader(r).ReadMIMEHeader()
	if err != nil {
		return a, err
	}
	a.header = http.Header(header)
	var body bytes.Buffer
	_, err = body.ReadFrom(r)
	a.body = bytes.TrimSuffix(body.Bytes(), []byte("\n"))
	return a, err
}

// with returns the answer with other words in its body: old, new, old, new.
func (a answer) with(words ...string) answer {
	a.body = []byte(strings.NewReplacer(words...).Replace(string(a.body)))
	return a
}

// edited returns the answer with its body, a JSON object, changed.
func (a answer) edited(edit func(object map[string]any)) answer {
	object := make(map[string]any)
	must(json.Unmarshal(a.body, &object))
	edit(object)
	a.body = must2(json.Marshal(object))
	return a
}

// listed returns the answer with a list in its body that has so many elements, each one like the
// one that was recorded, and changed.
func (a answer) listed(n int, edit func(i int, element map[string]any)) answer {
	var recorded []json.RawMessage
	must(json.Unmarshal(a.body, &recorded))
	a.body = must2(json.Marshal(elements(recorded[0], n, edit)))
	return a
}

func elements(recorded json.RawMessage, n int, edit func(i int, element map[string]any)) []any {
	all := make([]any, n)
	for i := range all {
		element := make(map[string]any)
		must(json.Unmarshal(recorded, &element))
		edit(i, element)
		all[i] = element
	}
	return all
}

// must ends the test whose recording is not what it should be.
func must(err error) {
	if err != nil {
		panic("fakeengine: " + err.Error())
	}
}

func must2[T any](value T, err error) T {
	must(err)
	return value
}
