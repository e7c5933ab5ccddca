package jobenv

import (
	"maps"
	"slices"
	"strings"
)

// JoinTokens returns tokens by their hosts as Nix's setting access-tokens has them: HOST=TOKEN,
// separated by spaces, and in order.
func JoinTokens(byHost map[string]string) string {
	var words []string
	for _, host := range slices.Sorted(maps.Keys(byHost)) {
		words = append(words, host+"="+byHost[host])
	}
	return strings.Join(words, " ")
}

// SplitTokens returns the tokens that JoinTokens has joined, by their hosts. Of two for one host, the
// last counts.
func SplitTokens(text string) map[string]string {
	byHost := make(map[string]string)
	for pair := range strings.FieldsSeq(text) {
		if host, token, ok := strings.Cut(pair, "="); ok {
			byHost[host] = token
		}
	}
	return byHost
}
