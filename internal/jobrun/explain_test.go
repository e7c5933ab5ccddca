package jobrun

import (
	"testing"

	"iglu.sh/builder/internal/nixlog"
)

// TestExplain checks the reasons of failures that Nix has reported, and the advice.
func TestExplain(t *testing.T) {
	t.Cleanup(func() { why.set("", "") })
	const drv, feature = "/nix/store/93s9qh4dv29fnalqrgc9pg8ks6w68cnd-hello-2.12.drv", "experimental Nix feature 'ca-derivations' is disabled"
	for _, test := range []struct {
		f              nixlog.Failure
		code           int
		reason, advice string
	}{
		{nixlog.Failure{Text: "x"}, 0, "", ""},
		{nixlog.Failure{}, 1, "", ""},
		{nixlog.Failure{Derivation: drv}, 1, "hello-2.12 failed", seeLog},
		{nixlog.Failure{Derivation: drv, Text: feature}, 1, "hello-2.12 failed: " + feature, seeLog},
		{nixlog.Failure{Text: "attribute 'foo' missing"}, 1, "attribute 'foo' missing", "The log has all that Nix says of it."},
		{nixlog.Failure{Text: feature}, 1, feature, daemonFeature},
	} {
		why.set("", "")
		explain(test.f, test.code)
		if why.reason != test.reason || why.advice != test.advice {
			t.Errorf("%+v: %q, %q", test.f, why.reason, why.advice)
		}
	}
}
