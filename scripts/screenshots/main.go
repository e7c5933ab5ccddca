// Screenshots makes the pictures in docs/page.md, with a real builder, real jobs and a real Chromium. It needs
// bin/iglu-builder, an engine, and IGLU_SHOT_JOB_IMAGE, the name of an image with Nix. See docs/development.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"iglu.sh/builder/scripts/internal/server"
	"iglu.sh/builder/test/kit/gitserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

const folder = "docs/images"

// A shot is one picture.
type shot struct {
	name   string
	path   string // the path of the page
	ready  string // a JavaScript expression that is true when the page can be shown
	do     string // a JavaScript expression that is evaluated then; may be empty
	width  int64
	height int64
	dark   bool
}

func run(ctx context.Context) (err error) {
	state, err := os.MkdirTemp("", "iglu-screenshots-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	repositories, stopGit, err := serveGit(state)
	if err != nil {
		return err
	}
	defer stopGit()
	image := os.Getenv("IGLU_SHOT_JOB_IMAGE")
	if image == "" {
		return errors.New("IGLU_SHOT_JOB_IMAGE is not set: set it to the name of an image with Nix")
	}
	builder, err := server.Start("--job-image", image, "--store", "ephemeral")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, builder.Stop()) }()
	url := "http://" + builder.Address

	const build = "nix build -L --file default.nix"
	jobs := []string{job(repositories, "hello", "nix build --no-such-option")}
	for n := range 7 { // so that there is something to draw
		jobs = append(jobs, job(repositories, "hello", "nix build -L --print-out-paths"), job(repositories, "sled", build+fmt.Sprintf(" --argstr n %d", n)))
	}
	for _, job := range append(jobs, job(repositories, "igloo", build)) {
		send(ctx, url, job).Run() // ignores errors: the page shows the result
	}
	last, err := newest(url)
	if err != nil {
		return err
	}
	const listed = "document.querySelector('#jobs .list a')"
	if err := shoot(ctx, url, []shot{
		{"jobs-light", "/", listed, "", 1440, 720, false},
		{"jobs-narrow", "/", listed, "", 390, 844, true},
	}); err != nil {
		return err
	}
	running := send(ctx, url, job(repositories, "village", build))
	if err := running.Start(); err != nil {
		return err
	}
	defer func() {
		running.Process.Signal(syscall.SIGTERM)
		running.Wait()
	}()

	const lines = "document.querySelectorAll('.row:not(.waits)').length > %d && document.querySelectorAll('#derivations :is(.built, .failed)').length > %d"
	return shoot(ctx, url, []shot{
		{"running-light", "/", fmt.Sprintf(lines, 22, 3), "", 1440, 900, false},
		{"running-dark", "/", fmt.Sprintf(lines, 22, 3), "", 1280, 720, true},
		{"failed-dark", "/jobs/" + last, fmt.Sprintf(lines, 5, 1), "", 1440, 900, true},
		{"failed-narrow", "/jobs/" + last, fmt.Sprintf(lines, 5, 1), "", 390, 844, false},
		{"derivation-light", "/jobs/" + last, fmt.Sprintf(lines, 5, 1), "document.querySelector('.node:has(.failed) .name').click()", 1280, 720, false},
		{"new-light", "/new", "document.getElementById('preview').textContent", "", 1440, 900, false},
		{"new-narrow", "/new", "document.getElementById('preview').textContent", "", 390, 844, true},
	})
}

// Sources for the pictures: a derivation that fails after another has succeeded, and several slow derivations that
// depend on each other.
var sources = map[string]string{
	"igloo": `let
  d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };
  snow = d "libsnow-1.4" "echo compiling snow.c; echo > $out";
in d "igloo-2.0" "echo using ${snow}; for f in door wall roof; do echo compiling $f.c; done; printf '\\033[1mroof.c:12:5: \\033[31merror:\\033[0m expected a block before the key stone\\n'; exit 1"
`,
	"sled": `{ n }: derivation {
  name = "sled-${n}"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "i=0; while [ $i -lt ${n}00000 ]; do i=$((i+1)); done; [ ${n} != 4 ] && echo > $out" ];
}
`,
	"village": `let
  d = name: deps: script: derivation {
    inherit name deps; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
  };
  quarry = d "quarry-0.9" [ ] "echo breaking ice; echo > $out";
  house = n: d "house-${toString n}" [ quarry ]
    "i=0; while [ $i -lt 20 ]; do i=$((i+1)); printf \"\\033[36mcutting\\033[0m block $i of house ${toString n}: \\033[32mcold enough\\033[0m\\n\"; j=0; while [ $j -lt 90000 ]; do j=$((j+1)); done; done; echo > $out";
  street = name: houses: d "street-${name}" (map house houses) "echo > $out";
in d "village-1.0" [ (street "north" [ 1 2 3 4 ]) (street "south" [ 5 6 7 8 ]) (street "west" [ 9 10 11 ]) ] "echo > $out"
`,
}

// job returns a job that builds one of them.
func job(repositories, name, command string) string {
	return fmt.Sprintf(`{"colors":true,"git":{"noClone":false,"repository":%q},"buildOptions":{"maxJobs":2,"command":%q,"cachix":{"push":false}}}`,
		repositories+"/"+name, command)
}

func serveGit(state string) (url string, stop func() error, err error) {
	root := filepath.Join(state, "repositories")
	if err := gitserver.Publish(root, "hello", "examples/hello"); err != nil {
		return "", nil, err
	}
	for name, source := range sources {
		folder := filepath.Join(state, name)
		if err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(filepath.Join(folder, "default.nix"), []byte(source), 0o644),
			gitserver.Publish(root, name, folder)); err != nil {
			return "", nil, err
		}
	}
	return gitserver.Serve(&gitserver.Server{Root: root})
}

// send returns a command of the client that sends a job.
func send(ctx context.Context, url, job string) *exec.Cmd {
	client := exec.CommandContext(ctx, server.Program, "build", "--url", strings.Replace(url, "http", "ws", 1), "-")
	client.Stdin = strings.NewReader(job)
	client.Cancel = func() error { return client.Process.Signal(syscall.SIGTERM) }
	return client
}

// newest returns the id of the latest job.
func newest(url string) (string, error) {
	response, err := http.Get(url + "/api/v1/jobs?limit=1")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var answer struct{ Jobs []struct{ ID string } }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || len(answer.Jobs) == 0 {
		return "", fmt.Errorf("ask for the latest job: %w", err)
	}
	return answer.Jobs[0].ID, nil
}

// shoot takes pictures.
func shoot(ctx context.Context, url string, shots []shot) error {
	allocator, stop := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox)...)
	defer stop()
	ctx, cancel := chromedp.NewContext(allocator)
	defer cancel()
	for _, s := range shots {
		picture, err := s.take(ctx, url)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		name := filepath.Join(folder, s.name+".png")
		if err := os.WriteFile(name, picture, 0o644); err != nil {
			return err
		}
		fmt.Println(name)
	}
	return nil
}

// readyTimeout is how long a page may take to be ready. It is long enough for a busy machine.
const readyTimeout = 4 * time.Minute

func (s shot) take(ctx context.Context, url string) ([]byte, error) {
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	if err := chromedp.Do(ctx,
		chromedp.EmulateViewport(s.width, s.height),
		chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			return err
		}),
		chromedp.Navigate(url+s.path),
	); err != nil {
		return nil, err
	}
	for end := time.Now().Add(readyTimeout); ; time.Sleep(100 * time.Millisecond) {
		ready, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+s.ready+")"))
		if err != nil || time.Now().After(end) {
			return nil, errors.Join(err, errors.New("the page is not ready"))
		}
		if ready {
			if s.do != "" {
				if _, err := chromedp.Run(ctx, chromedp.Evaluate[any](s.do)); err != nil {
					return nil, err
				}
			}
			time.Sleep(time.Second) // for what comes of events
			return chromedp.Run(ctx, chromedp.CaptureScreenshot())
		}
	}
}
