// Recordengine records the answers of a real container engine for package fakeengine.
//
//	recordengine -socket /var/run/docker.sock -image HOST:PORT/iglu/recorded:1 [WORD=OTHER...] > docker.txt
//
// In the recording, each WORD is replaced with OTHER, so that names of the machine do not appear in it.
//
// The image must be in a registry from which the engine can pull, and must not be on the engine yet. It
// contains the program of test/kit/cmd/attack as /bin/attack. At the end, everything that was made on the
// engine is removed, including the image.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"iglu.sh/builder/test/kit/fakeengine"
)

func main() {
	socket := flag.String("socket", "/var/run/docker.sock", "the engine's socket")
	image := flag.String("image", "", "the image to pull")
	flag.Parse()
	r := &recorder{socket: *socket}
	registry, _, _ := strings.Cut(*image, "/")
	wanted, _, _ := strings.Cut(fakeengine.ImageRef, "/")
	r.renamed = []string{registry, wanted}
	for _, pair := range flag.Args() {
		was, now, _ := strings.Cut(pair, "=")
		r.renamed = append(r.renamed, was, now)
	}
	r.engine()
	r.image(*image)
	r.volumesAndNetworks()
	r.containers(*image)
	r.call("", "DELETE", "/images/"+*image, "")
	if _, err := os.Stdout.Write(r.text.Bytes()); err != nil {
		log.Fatal(err)
	}
}

// A recorder makes calls and records the answers.
type recorder struct {
	socket  string
	renamed []string // words and their replacements in the recording, in pairs
	text    bytes.Buffer
}

const (
	version = "/v1.41" // of the API
	label   = "sh.iglu.builder.instance"
	nowhere = "/containers/" + fakeengine.MissingName
)

func (r *recorder) engine() {
	r.call("ping", "HEAD", "/_ping", "")
	r.call("ping-get", "GET", "/_ping", "")
	r.call("version", "GET", version+"/version", "")
	r.call("info", "GET", version+"/info", "")
}

func (r *recorder) image(image string) {
	name, tag := image[:strings.LastIndex(image, ":")], image[strings.LastIndex(image, ":")+1:]
	missing := url.Values{"fromImage": {name + "-missing"}, "tag": {tag}}
	there := url.Values{"fromImage": {name}, "tag": {tag}}
	r.call("image-missing", "GET", version+"/images/"+image+"/json", "")
	r.call("pull-missing", "POST", version+"/images/create?"+missing.Encode(), "")
	r.call("pull", "POST", version+"/images/create?"+there.Encode(), "")
	r.call("image-inspect", "GET", version+"/images/"+image+"/json", "")
}

func (r *recorder) volumesAndNetworks() {
	labels := `"Labels":{"` + label + `":"recorded"}`
	mine := "?filters=" + url.QueryEscape(`{"label":{"`+label+`=recorded":true}}`)
	r.call("volume-missing", "GET", version+"/volumes/"+fakeengine.MissingName, "")
	r.call("volume-list-empty", "GET", version+"/volumes"+mine, "")
	r.call("volume-create", "POST", version+"/volumes/create", `{"Name":"`+fakeengine.VolumeName+`",`+labels+`}`)
	r.call("volume-inspect", "GET", version+"/volumes/"+fakeengine.VolumeName, "")
	r.call("volume-list", "GET", version+"/volumes"+mine, "")
	r.call("volume-remove-missing", "DELETE", version+"/volumes/"+fakeengine.MissingName, "")

	r.call("network-missing", "GET", version+"/networks/"+fakeengine.MissingName, "")
	r.call("network-list-empty", "GET", version+"/networks"+mine, "")
	answer := r.call("network-create", "POST", version+"/networks/create", `{"Name":"`+fakeengine.NetworkName+`","Driver":"bridge",`+labels+`}`)
	r.rename(answer, fakeengine.NetworkID)
	r.call("network-inspect", "GET", version+"/networks/"+fakeengine.NetworkName, "")
	r.call("network-list", "GET", version+"/networks"+mine, "")
	r.call("network-remove", "DELETE", version+"/networks/"+fakeengine.NetworkName, "")
	r.call("network-remove-missing", "DELETE", version+"/networks/"+fakeengine.MissingName, "")
}

// containers records the calls of a container from its creation to its removal, and removes the volume.
func (r *recorder) containers(image string) {
	mine := "?all=1&filters=" + url.QueryEscape(`{"label":{"`+label+`=recorded":true}}`)
	create := func(name, image, command, more string) []byte {
		return r.call(name, "POST", version+"/containers/create?name="+fakeengine.ContainerName, fmt.Sprintf(
			`{"Image":%q,"Entrypoint":["/bin/attack"],"Cmd":%s,"User":"0","OpenStdin":true,"StdinOnce":true,"Labels":{%q:"recorded"},`+
				`"HostConfig":{"NetworkMode":"none","LogConfig":{"Type":"none"},"Mounts":[{"Type":"volume","Source":%q,"Target":"/iglu"}]%s}}`,
			image, command, label, fakeengine.VolumeName, more))
	}
	const this = version + "/containers/" + fakeengine.ContainerName
	archive := "/archive?path=/iglu/program"
	stream := "/attach?stream=1&stdin=1&stdout=1&stderr=1"
	r.call("container-list-empty", "GET", version+"/containers/json"+mine, "")
	create("create-without-image", image+"-missing", `["count","3"]`, "")
	r.rename(create("create", image, `["count","3"]`, ""), fakeengine.ContainerID)
	create("create-twice", image, `["count","3"]`, "")
	r.call("inspect-created", "GET", this+"/json", "")
	r.call("archive-head-missing", "HEAD", this+archive, "")
	r.call("archive-get-missing", "GET", this+archive, "")
	r.call("archive-put", "PUT", this+"/archive?path=/iglu", programArchive())
	r.call("archive-head", "HEAD", this+archive, "")
	answer, _ := r.ask("GET", this+archive, "")
	r.write("archive-get", answer, nil) // without the body: an archive is not text
	r.call("volume-in-use", "DELETE", version+"/volumes/"+fakeengine.VolumeName, "")

	attached := r.hijack("attach", this+stream)
	waited := make(chan struct{})
	go func() { r.call("wait", "POST", this+"/wait?condition=next-exit", ""); close(waited) }()
	answer, content := r.ask("POST", this+"/start", "")
	<-waited
	r.write("start", answer, content)
	attached.Close()
	r.call("inspect-exited", "GET", this+"/json", "")
	r.call("container-list", "GET", version+"/containers/json"+mine, "")
	r.call("stop-stopped", "POST", this+"/stop?t=1", "")
	r.call("remove", "DELETE", this+"?force=1&v=1", "")

	r.rename(create("", image, `["linger"]`, ""), fakeengine.ContainerID)
	r.call("", "POST", this+"/start", "")
	r.call("inspect-running", "GET", this+"/json", "")
	r.call("start-twice", "POST", this+"/start", "")
	r.call("stop", "POST", this+"/stop?t=1", "")
	r.call("", "DELETE", this+"?force=1&v=1", "")

	r.rename(create("", image, `["memory-hog"]`, `,"Memory":67108864,"MemorySwap":67108864`), fakeengine.ContainerID)
	r.call("", "POST", this+"/start", "")
	r.call("", "POST", this+"/wait", "")
	r.call("inspect-out-of-memory", "GET", this+"/json", "")
	r.call("", "DELETE", this+"?force=1&v=1", "")

	for _, call := range [][3]string{
		{"inspect-missing", "GET", "/json"}, {"start-missing", "POST", "/start"}, {"stop-missing", "POST", "/stop"},
		{"wait-missing", "POST", "/wait?condition=next-exit"}, {"remove-missing", "DELETE", "?force=1"}, {"archive-head-nowhere", "HEAD", archive},
		{"archive-get-nowhere", "GET", archive}, {"archive-put-nowhere", "PUT", "/archive?path=/iglu"},
	} {
		r.call(call[0], call[1], version+nowhere+call[2], "")
	}
	r.hijack("attach-missing", version+nowhere+stream).Close()
	r.call("volume-remove", "DELETE", version+"/volumes/"+fakeengine.VolumeName, "")
}

func programArchive() string {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: 7})
	w.Write([]byte("program"))
	w.Close()
	return archive.String()
}

// call makes a call and records its answer under a name, unless the name is empty. It returns the body.
func (r *recorder) call(name, method, target, body string) []byte {
	answer, content := r.ask(method, target, body)
	r.write(name, answer, content)
	return content
}

func (r *recorder) ask(method, target, body string) (answer *http.Response, content []byte) {
	request, err := http.NewRequest(method, "http://docker"+target, strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", r.socket)
	}}}
	answer, err = client.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	if content, err = io.ReadAll(answer.Body); err != nil {
		log.Fatalf("%s %s: %v", method, target, err)
	}
	return answer, content
}

// hijack makes a call whose answer is a stream, and records the head of the answer. If the engine answers
// without a stream, it records the whole answer. The caller closes the connection.
func (r *recorder) hijack(name, target string) net.Conn {
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n", target)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		log.Fatal(err)
	}
	var content []byte
	if answer.StatusCode >= http.StatusBadRequest {
		if content, err = io.ReadAll(answer.Body); err != nil {
			log.Fatal(err)
		}
	}
	r.write(name, answer, content)
	return conn
}

// rename replaces the ID in an answer with a placeholder in everything that is recorded from now on.
func (r *recorder) rename(answer []byte, placeholder string) {
	var created struct{ ID string }
	if json.Unmarshal(answer, &created) != nil || created.ID == "" {
		log.Fatalf("no ID in %s", answer)
	}
	r.renamed = append(r.renamed, created.ID, placeholder, created.ID[:12], placeholder[:12])
	text := r.replaced(r.text.String())
	r.text.Reset()
	r.text.WriteString(text)
}

func (r *recorder) replaced(text string) string {
	for pair := range slices.Chunk(r.renamed, 2) {
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	return text
}

// write records an answer under a name, unless the name is empty.
func (r *recorder) write(name string, answer *http.Response, body []byte) {
	if name == "" {
		return
	}
	for _, header := range []string{"Date", "Content-Length", "Connection", "X-Reference-Id"} {
		answer.Header.Del(header)
	}
	fmt.Fprintf(&r.text, "-- %s --\n%s\n", name, answer.Status)
	for _, header := range slices.Sorted(maps.Keys(answer.Header)) {
		fmt.Fprintf(&r.text, "%s: %s\n", header, answer.Header.Get(header))
	}
	fmt.Fprintf(&r.text, "\n%s\n", strings.TrimSpace(r.replaced(string(body))))
}
