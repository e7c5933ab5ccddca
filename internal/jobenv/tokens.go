package jobenv

import (
	"maps"
	"slices"
	"strings"
)

// JoinTokens returns the tokens as a value of Nix's setting access-tokens: HOST=TOKEN, separated by
// spaces and sorted. The keys of the map are hosts.
func JoinTokens(byHost map[string]string) string {
	var words []string
	for _, host := range slices.Sorted(maps.Keys(byHost)) {
		words = append(words, host+"="+byHost[host])
	}
	return strings.Join(words, " ")
}

// SplitTokens is the inverse of JoinTokens. If a host has two tokens, the last one is returned.
func SplitTokens(text string) map[string]string {
	byHost := make(map[string]string)
	for pair := range strings.FieldsSeq(text) {
		if host, token, ok := strings.Cut(pair, "="); ok {
			byHost[host] = token
		}
	}
	return byHost
}
