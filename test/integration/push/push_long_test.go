//go:build integration && long

package push

import (
	"encoding/base64"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestUpstream runs jobs with a path in the store that an upstream cache has signed. The path is not pushed, unless a
// setting of the builder says so or the upstream is the target cache itself.
func TestUpstream(t *testing.T) { fixture.OnEngines(t, upstream) }

func upstream(t *testing.T, e *fixture.Engine) {
	const expression = `let d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };` +
		` in d "top" "echo ${d "libc" "echo > $out"} > $out"`
	// The signed path has no references. The other refers to it.
	const script = `top=$(nix-build --no-out-link -E '` + expression + `')
libc=$(nix-store -q --references "$top")
export NIX_CONFIG="extra-experimental-features = nix-command"
nix key generate-secret --key-name upstream-1 > /key
nix store sign --key-file /key "$libc"
nix key convert-secret-to-public < /key > /public
printf '%s' "$OWN" > /own
nix store sign --key-file /own "$top"
rm /key /own`
	own := strings.Replace(script, "$OWN", "default:"+fixture.SigningKey, 1)
	s := warmServer(t, e, own, func(*server.Settings) {})
	upstream := e.Docker(t, "run", "--rm", s.Image, "cat", "/public")
	stranger := "upstream-1:" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, test := range []struct {
		name    string
		trusted []string
		names   []string
	}{
		{"trusted", []string{upstream}, []string{"top"}},
		{"trusted, and the cache itself", []string{"default:" + fixture.PublicKey(t), upstream}, []string{"top"}},
		{"not trusted", nil, []string{"libc", "top"}},
		{"another of its name is", []string{stranger}, []string{"libc", "top"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := fixture.NewCache(t)
			j := c.Pushing(fixture.Command("nix-build -E '" + expression + "'"))
			j.BuildOptions.TrustedPublicKeys = test.trusted
			got := fixture.Do(t, s, j)
			fixture.WantExit(t, got, 0)
			fixture.WantTotal(t, got, len(test.names), 0, 2-len(test.names))
			fixture.WantNames(t, c, test.names)
		})
	}
	t.Run("all is to be pushed", func(t *testing.T) {
		c := fixture.NewCache(t)
		j := c.Pushing(fixture.Command("nix-build -E '" + expression + "'"))
		j.BuildOptions.TrustedPublicKeys = []string{upstream}
		fixture.WantTotal(t, fixture.Do(t, e.Server(t, func(v *server.Settings) { v.JobImage, v.PushUpstream = s.Image, true }), j), 2, 0, 0)
	})
}
