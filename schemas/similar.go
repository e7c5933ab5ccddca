package schemas

import (
	"encoding/json"
	"strings"
)

// didYouMean returns a part of a sentence with the known name that is most similar to an unknown one, or "".
func didYouMean(name string, known []string) string {
	if nearest := Nearest(name, known); nearest != "" {
		return "; did you mean " + nearest + "?"
	}
	return ""
}

// Nearest returns the known name that is most similar to an unknown one, or "" if none is similar.
func Nearest(name string, known []string) (nearest string) {
	least := maxTypos + 1
	for _, candidate := range known {
		if !isSimilar(name, candidate) {
			continue
		}
		if typos := distance(plainName(name), plainName(candidate)); typos < least {
			nearest, least = candidate, typos
		}
	}
	return nearest
}

// hasSimilar reports whether a job has a property with a similar name.
func hasSimilar(properties map[string]json.RawMessage, name string) bool {
	for candidate := range properties {
		if isSimilar(candidate, name) {
			return true
		}
	}
	return false
}

// maxTypos is how many letters of similar names may differ.
const maxTypos = 2

// isSimilar reports whether two names differ only in case and underscores, or in a few letters.
func isSimilar(a, b string) bool {
	a, b = plainName(a), plainName(b)
	// Short names that differ in two letters are not similar.
	return a == b || len(a) > 2*maxTypos && len(a)-len(b) <= maxTypos && len(b)-len(a) <= maxTypos && distance(a, b) <= maxTypos
}

// plainName returns a name without case, underscores and dashes.
func plainName(name string) string { return strings.ToLower(withoutDashes.Replace(name)) }

var withoutDashes = strings.NewReplacer("_", "", "-", "")

// distance returns how many letters must be inserted, removed or replaced to change a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
