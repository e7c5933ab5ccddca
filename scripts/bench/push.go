package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/gitserver"
)

const (
	pushRounds = 5
	smallPaths = 2000
	largePath  = 1 << 30
)

// smallClosure makes paths of some kB of text: leaves, paths that each refer to three leaves, and one that refers to all.
const smallClosure = `nix-build -o /result -E '
let
  inherit (builtins) genList elemAt concatStringsSep toFile toString;
  text = n: concatStringsSep "" (genList (i: "${toString n} ${toString (i * n)} some text that can be compressed\n") (50 + n / 10));
  leaves = genList (n: toFile "leaf-${toString n}" (text n)) 1500;
  leaf = n: elemAt leaves (n - n / 1500 * 1500);
  nodes = genList (n: toFile "node-${toString n}" "${leaf n} ${leaf (n * 7)} ${leaf (n * 13)} ${text n}") 499;
in derivation {
  name = "all"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "echo ${toFile "list" (concatStringsSep "\n" (leaves ++ nodes))} > $out" ];
}'`

// largeClosure makes one path of real programs and libraries.
var largeClosure = fmt.Sprintf(`mkdir /large
while [ $(cat /large/* 2>/dev/null | wc -c) -lt %d ]; do
  cat $(find /nix/store -type f -size +200k) > /large/$(ls /large | wc -l)
done
cat /large/* | head -c %[1]d > /1-gb
ln -s $(nix-store --add /1-gb) /result
rm -r /large /1-gb`, largePath)

// benchPush measures the push of paths that are already in the store.
func benchPush(ctx context.Context, image string, table *strings.Builder) error {
	fmt.Fprintf(table, "| container start included | median of %d | against nix copy | peak memory of the job |\n|---|---|---|---|\n", pushRounds)
	for _, closure := range []struct{ name, script string }{
		{fmt.Sprintf("%d small paths", smallPaths), smallClosure},
		{"one path of 1 GiB", largeClosure},
	} {
		if err := pushClosure(ctx, image, closure.name, closure.script, table); err != nil {
			return fmt.Errorf("%s: %w", closure.name, err)
		}
	}
	return nil
}

// pushClosure races the two ways of copying a closure out of a container's store.
func pushClosure(ctx context.Context, image, name, script string, table *strings.Builder) error {
	filled, err := fillStore(ctx, image, script)
	if err != nil {
		return err
	}
	defer exec.Command("docker", "rmi", filled).Run()
	cache, err := serveCache()
	if err != nil {
		return err
	}
	defer cache.close()
	s, err := startBuilder(filled)
	if err != nil {
		return err
	}
	defer s.stop()
	var peak float64
	const pushed, copied = "iglu-builder", "nix copy --to 'file://…?compression=zstd'"
	medians, err := s.race(ctx, pushRounds, []contender{
		{pushed, cache.renew, func(ctx context.Context) error {
			memory := watchMemory(s)
			_, err := s.build(ctx, cache.job(), nil)
			peak = max(peak, <-memory)
			return err
		}},
		{copied, nil, dockerRuns("run", "--rm", filled, "nix", "--extra-experimental-features", "nix-command",
			"copy", "--to", "file:///tmp/cache?compression=zstd", "/result")},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(table, "| %s, %s | %.2f s | %.2f | %.0f MiB |\n", name, pushed, medians[pushed].Seconds(),
		medians[pushed].Seconds()/medians[copied].Seconds(), peak)
	fmt.Fprintf(table, "| %s, %s | %.2f s | 1.00 | |\n", name, copied, medians[copied].Seconds())
	return nil
}

// fillStore returns the name of an image whose store a script has filled.
func fillStore(ctx context.Context, image, script string) (string, error) {
	output, err := exec.CommandContext(ctx, "docker", "create", image, "bash", "-ec", script).Output()
	if err != nil {
		return "", err
	}
	container := strings.TrimSpace(string(output))
	defer exec.Command("docker", "rm", "--force", container).Run()
	if output, err := exec.CommandContext(ctx, "docker", "start", "--attach", container).CombinedOutput(); err != nil {
		return "", fmt.Errorf("fill a store: %w: %s", err, output)
	}
	name := "iglu-bench:" + strings.ToLower(rand.Text()[:8])
	return name, exec.CommandContext(ctx, "docker", "commit", "--change", "CMD []", container, name).Run()
}

// A binaryCache is a strict cache on this machine.
type binaryCache struct {
	folder     string
	url        string
	token      string
	signingKey string
	publicKey  string
	rounds     int
	current    atomic.Pointer[devcache.Server]
	stop       func() error
}

func serveCache() (*binaryCache, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "iglu-bench-cache-")
	if err != nil {
		return nil, err
	}
	c := &binaryCache{folder: folder, token: rand.Text(), signingKey: base64.StdEncoding.EncodeToString(private),
		publicKey: base64.StdEncoding.EncodeToString(public)}
	if err := c.renew(); err != nil {
		return nil, err
	}
	c.url, c.stop, err = gitserver.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.current.Load().ServeHTTP(w, r)
	}))
	c.url += "/default"
	return c, err
}

func (c *binaryCache) close() {
	c.stop()
	os.RemoveAll(c.folder)
}

// renew empties the cache. It uses a new folder, because file systems are slow in folders with deleted files.
func (c *binaryCache) renew() error {
	c.rounds++
	cache, err := devcache.New(devcache.Options{
		Folder: filepath.Join(c.folder, strconv.Itoa(c.rounds)), Token: c.token, Names: []string{"default"}})
	if err != nil {
		return err
	}
	c.current.Store(cache)
	return cache.AddKey("default", c.publicKey)
}

// job returns a job whose result is the image's closure.
func (c *binaryCache) job() schemas.Request {
	job := shell("readlink -f /result")
	job.BuildOptions.Cachix = schemas.Cachix{Push: true, Target: c.url, APIKey: c.token, SigningKey: c.signingKey}
	return job
}

// watchMemory sends the peak memory, in MiB, of the builder's program in the container of the server's next job, after the
// job has ended.
func watchMemory(s *builder) <-chan float64 {
	peak := make(chan float64, 1)
	go func() {
		pid := 0
		for pid == 0 {
			time.Sleep(20 * time.Millisecond)
			id, _ := exec.Command("docker", "ps", "--quiet", "--filter", "label=sh.iglu.builder.instance="+s.Instance).Output()
			if len(id) > 0 {
				output, _ := exec.Command("docker", "inspect", "--format", "{{.State.Pid}}", strings.TrimSpace(string(id))).Output()
				fmt.Sscan(string(output), &pid)
			}
		}
		highest := 0.0
		for {
			mib, err := memoryOf(pid, "VmHWM")
			if err != nil {
				peak <- highest
				return
			}
			highest = mib
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return peak
}
