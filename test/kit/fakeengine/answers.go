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

// Placeholders in recorded answers for values that differ each time.
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

// An answer is an engine's answer to a call.
type answer struct {
	status int
	header http.Header
	body   []byte
	later  func() []byte // waits for the body and returns it; the head is sent before
	taken  func(*conn)   // called with the connection before the head is sent
	stream func(*conn)   // called with the connection after the head is sent
}

// answers are the answers of one engine by their names in its recording.
type answers map[string]answer

// recorded caches the recordings that were read.
var recorded sync.Map

// answersOf returns the recorded answers of an engine.
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

// with returns the answer with words in its body replaced. The words are in pairs: old, new, old, new.
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

// listed returns the answer with a list of n elements in its body. Each is a copy of the recorded element,
// changed by edit.
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

// must panics if a recording is not valid.
func must(err error) {
	if err != nil {
		panic("fakeengine: " + err.Error())
	}
}

func must2[T any](value T, err error) T {
	must(err)
	return value
}
