package server

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"iglu.sh/builder/internal/nixconf"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/schemas"
)

// maxNixConf is the largest size of the operator's lines of nix.conf, in bytes. They become one environment
// variable, for which Linux allows 128 KiB.
const maxNixConf = 96 << 10

// ours are the settings of Nix that the operator cannot set, because they keep jobs apart or jobs need them,
// each with the reason or with what to use instead.
var ours = map[string]string{
	"accept-flake-config":   "use IGLU_ACCEPT_FLAKE_CONFIG",
	"sandbox":               "use IGLU_NIX_SANDBOX",
	"sandbox-fallback":      "use IGLU_NIX_SANDBOX",
	"allowed-users":         "use IGLU_JOB_USER",
	"trusted-users":         "use IGLU_JOB_USER",
	"build-users-group":     "the builder sets it for each job",
	"build-dir":             "the builder sets it for each job",
	"experimental-features": "it would disable flakes; use extra-experimental-features",
	"json-log-path":         "the builder sets it for each job",
	"store":                 "a job's Nix store is its container's own",
	"tarball-ttl":           "it is 0 in each job, so that each builds the newest commit of a branch",
}

// readNixConf reads the operator's settings of Nix from a file, if there is one. It returns an error for
// wrong values. It accepts unknown settings: only the job image's Nix knows which exist, and warns.
func readNixConf(file string) (orchestrator.NixSettings, error) {
	if file == "" {
		return orchestrator.NixSettings{}, nil
	}
	text, err := readBounded(file, maxNixConf)
	if err != nil {
		return orchestrator.NixSettings{}, fmt.Errorf("IGLU_NIX_CONF_FILE: %w", err)
	}
	settings, err := parseNixConf(text)
	if err != nil {
		return orchestrator.NixSettings{}, fmt.Errorf("IGLU_NIX_CONF_FILE: %s: %w", file, err)
	}
	return settings, nil
}

func readBounded(name string, most int64) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", name, most)
	}
	return string(text), err
}

// parseNixConf reads lines of nix.conf. Its errors contain line numbers and names of settings, but no values,
// which may be secret.
func parseNixConf(text string) (orchestrator.NixSettings, error) {
	var none, result orchestrator.NixSettings
	settings, err := nixconf.Parse(text)
	if err != nil {
		return none, err
	}
	var lines nixconf.Lines
	for _, setting := range settings {
		if strings.ContainsFunc(setting.Value, unicode.IsControl) {
			return none, fmt.Errorf("line %d: %s contains a control character", setting.Line, setting.Name)
		}
		if why := ours[setting.Base()]; why != "" && setting.Name != "extra-experimental-features" {
			return none, fmt.Errorf("line %d: %s cannot be set here: %s", setting.Line, setting.Name, why)
		}
		if setting.Base() == "access-tokens" {
			if err := addTokens(&result, setting); err != nil {
				return none, err
			}
			continue
		}
		if why := wordsWrong(setting); why != "" {
			return none, fmt.Errorf("line %d: %s %s", setting.Line, setting.Name, why)
		}
		lines.Set(setting.Name, setting.Value)
		if setting.Base() == "trusted-public-keys" {
			result.PublicKeys = append(result.PublicKeys, setting.Words()...)
		}
		if slices.Contains(trusting, setting.Base()) {
			result.Trust = append(result.Trust, setting.Name+" = "+setting.Value)
		}
	}
	result.Lines = lines.String()
	return result, nil
}

// trusting are the settings that decide which paths Nix accepts from other machines.
var trusting = []string{"substituters", "trusted-substituters", "trusted-public-keys", "require-sigs", "builders"}

// addTokens adds the words HOST=TOKEN of a setting.
func addTokens(to *orchestrator.NixSettings, setting nixconf.Setting) error {
	if to.AccessTokens == nil || setting.Name == setting.Base() { // a line without "extra-" replaces all lines before it
		to.AccessTokens = make(map[string]string)
	}
	for _, word := range setting.Words() {
		host, token, ok := strings.Cut(word, "=")
		if !ok || !schemas.IsTokenHost(host) || token == "" {
			return fmt.Errorf("line %d: %s must be a list of HOST=TOKEN, such as github.com=…", setting.Line, setting.Name)
		}
		to.AccessTokens[schemas.PlainTokenHost(host)] = token
	}
	return nil
}

// wordsWrong returns what is wrong with the words of a setting, or "".
func wordsWrong(setting nixconf.Setting) string {
	checks := map[string]func(string) string{
		"substituters":         schemas.CheckSubstituter,
		"trusted-substituters": schemas.CheckSubstituter,
		"trusted-public-keys":  schemas.CheckPublicKey,
	}
	if check := checks[setting.Base()]; check != nil {
		for _, word := range setting.Words() {
			if why := check(word); why != "" {
				return why
			}
		}
	}
	return ""
}
