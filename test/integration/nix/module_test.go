//go:build integration

package nix

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/server"
)

// A service is a value of systemd.services.
type service struct {
	Environment   map[string]string
	After         []string
	ServiceConfig map[string]any
}

// TestModule sets every option to a value other than its default, and checks that the server accepts the
// service's environment.
func TestModule(t *testing.T) {
	f := newFlake(t)
	var module strings.Builder
	want := make(map[string]string)
	var credentials []any
	var keys string // the folder
	for _, setting := range server.Table() {
		value, text := other(t, setting)
		fmt.Fprintf(&module, "%s = %s;\n", setting.Flag, value)
		want[setting.Env] = strings.ReplaceAll(text, "%", "%%")
		if setting.Kind.Type == server.File {
			want[setting.Env] = "%d/" + setting.Flag
			credentials = append(credentials, setting.Flag+":"+text)
		}
		if setting.Flag == "agent-keys" {
			keys, want[setting.Env] = text, "%d"
		}
	}
	for _, name := range []string{"key.pem", "cert.pem", "ca.pem"} {
		credentials = append(credentials, name+":"+keys+"/"+name)
	}
	f.module("all", `{ pkgs, ... }: { services.iglu-builder = {
		enable = true;
		package = pkgs.go // { meta.mainProgram = "other"; };
		engine = "podman";
		registryAuthFile = "/run/secrets/docker.json";
		settings = {`+module.String()+`};
	}; }`)
	want["DOCKER_CONFIG"], want["DOCKER_HOST"] = "%d", "unix:///run/podman/podman.sock"
	credentials = append(credentials, "config.json:/run/secrets/docker.json")

	got := f.service("all")
	if diff := gocmp.Diff(want, got.Environment); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	config := got.ServiceConfig
	if diff := gocmp.Diff(credentials, config["LoadCredential"]); diff != "" {
		t.Errorf("LoadCredential (-want +got):\n%s", diff)
	}
	if fmt.Sprint(config["SupplementaryGroups"]) != "[podman]" || config["TimeoutStopSec"] != "7m" || config["StateDirectory"] != "other/folder" {
		t.Errorf("group %v, time to stop %v, folder %v", config["SupplementaryGroups"], config["TimeoutStopSec"], config["StateDirectory"])
	}
	if program, _ := config["ExecStart"].(string); !strings.HasSuffix(program, "-go/bin/other serve") {
		t.Errorf("it runs %q", program)
	}
	verify(t, got)
}

// TestModuleDefaults checks that the module's defaults are those of the server.
func TestModuleDefaults(t *testing.T) {
	f := newFlake(t)
	want := make(map[string]string)
	for _, setting := range server.Table() {
		if setting.Default != "" {
			want[setting.Env] = strings.ReplaceAll(setting.Default, "%", "%%")
		}
	}
	want["IGLU_STATE_DIR"], want["IGLU_STOP_TIMEOUT"] = "/var/lib/iglu-builder", "90s"
	got := f.service("default")
	if diff := gocmp.Diff(want, got.Environment); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if !slices.Contains(got.After, "docker.service") {
		t.Errorf("it starts after %q", got.After)
	}
	verify(t, got)

	f.module("remote", "{ services.iglu-builder = { enable = true; engine = null; }; }")
	if remote := f.service("remote"); remote.Environment["DOCKER_HOST"] != "" || fmt.Sprint(remote.ServiceConfig["SupplementaryGroups"]) != "[]" {
		t.Errorf("with another machine's engine: %+v", remote)
	}
	var off map[string]service
	f.module("off", "{ }")
	if f.eval("machines.off.systemd.services", &off); len(off) > 0 {
		t.Errorf("services of a machine without the module enabled: %v", off)
	}
}

// TestModuleIsConfined compares the restrictions of the service with those in examples/iglu-builder.service. The
// users differ: systemd makes the module's user, and packages make the other.
func TestModuleIsConfined(t *testing.T) {
	got := make(map[string]string)
	for key, value := range newFlake(t).service("default").ServiceConfig {
		got[key] = strings.Join(texts(value), " ")
	}
	text, err := os.ReadFile(filepath.Join(root, "examples/iglu-builder.service"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "[Service]")
	section, _, _ = strings.Cut(section, "[Install]")
	want := make(map[string]string)
	for _, line := range regexp.MustCompile(`(?m)^(\w+)=(.*)$`).FindAllStringSubmatch(section, -1) {
		value := line[2]
		if value == "yes" {
			value = "true"
		}
		want[line[1]] = value
	}
	want["TimeoutStopSec"] += "s"
	if want["User"] != want["Group"] || got["DynamicUser"] != "true" {
		t.Errorf("users: %s, %s; dynamic: %s", want["User"], want["Group"], got["DynamicUser"])
	}
	for _, key := range []string{"ExecStart", "Environment", "EnvironmentFile", "LoadCredential", "User", "Group", "DynamicUser"} {
		delete(want, key)
		delete(got, key)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("nix/module.nix (-unit +module):\n%s", diff)
	}
}

// TestModuleRefuses checks that the evaluation rejects invalid settings.
func TestModuleRefuses(t *testing.T) {
	f := newFlake(t)
	wrong := []struct{ option, want string }{
		{`settings.max-jobs = 0`, "settings.max-jobs is not of the type int from 1 to 256"},
		{`settings.max-jobs = "2"`, "settings.max-jobs is not of the type int"},
		{`settings.pull = "sometimes"`, "settings.pull is not of the type one of"},
		{`settings.git-depth = "some"`, "settings.git-depth is not of the type"},
		{`settings.build-timeout = "30"`, "settings.build-timeout is not of the type string matching"},
		{`settings.allowed-commands = [ ]`, "settings.allowed-commands is not of the type non-empty list"},
		{`settings.token-file = ../token`, "settings.token-file is not of the type"},
		{`settings.token-file = "/nix/store/token"`, "settings.token-file is in the Nix store"},
		{`settings.agent-keys = "/nix/store/keys"`, "settings.agent-keys is in the Nix store"},
		{`registryAuthFile = "/nix/store/config.json"`, "iglu-builder.registryAuthFile is in the Nix store"},
		{`settings.state-dir = "/srv"`, "settings.state-dir has to be below /var/lib"},
		{`settings.no-such-setting = 1`, "there is no option .services.iglu-builder.settings.no-such-setting"},
	}
	f.write("token", "")
	script := "cd " + f.folder + "; for m in $(ls modules); do nix eval --json path:$PWD#machines.$m.systemd.services 2>$m.err >/dev/null && echo $m; done; true"
	for i, w := range wrong {
		f.module(fmt.Sprint("wrong", i), "{ services.iglu-builder = { enable = true; "+w.option+"; }; }")
	}
	passed, err := run(script)
	if err != nil || strings.TrimSpace(passed) != "default" {
		t.Errorf("these were accepted: %q, %v", passed, err)
	}
	for i, w := range wrong {
		text, err := os.ReadFile(filepath.Join(f.folder, fmt.Sprint("wrong", i, ".err")))
		if err != nil || !strings.Contains(string(text), w.want) {
			t.Errorf("%s: %v, %s", w.option, err, text)
		}
	}
}

// service evaluates the builder's service of a machine.
func (f *flake) service(machine string) service {
	f.t.Helper()
	var s map[string]service
	f.eval("machines."+machine+".systemd.services", &s)
	return s["iglu-builder"]
}

// other returns a value of a setting that is not its default: as Nix code, and in the server's format.
func other(t *testing.T, s server.Setting) (value, text string) {
	t.Helper()
	quote := func(text string) string { return `"` + text + `"` }
	k := s.Kind
	switch k.Type {
	case server.Word:
		text = k.Words[len(k.Words)-1]
		if text == s.Default {
			text = k.Words[0]
		}
		value = quote(text)
	case server.YesNo:
		value, text = "true", "yes"
		if s.Default == "yes" {
			value, text = "false", "no"
		}
	case server.Number:
		value = fmt.Sprint(k.Max)
		text = value
	case server.List:
		words := []string{"nix", "other"}
		switch s.Flag {
		case "allowed-origins":
			words = []string{"https://a.example", "http://b.example:8080"}
		case "nodes":
			words = []string{"node-1:2376", "tasks.agent:2376"}
		}
		value, text = `[ "`+strings.Join(words, `" "`)+`" ]`, strings.Join(words, ",")
	case server.File:
		text = "/run/secrets/" + s.Flag
		value = quote(text)
	case server.Folder:
		text = "/var/lib/other/folder"
		value = quote(text)
	case server.Text:
		for _, sample := range []string{"50%", "7m", "9MiB", "30,7d", "0.0.0.0:4000", "https://builder.example.com", "other"} {
			if read(s.Flag, sample) == nil && regexp.MustCompile("^("+cmp.Or(k.Form, ".+")+")$").MatchString(sample) {
				text = sample
				break
			}
		}
		value = quote(text)
	}
	if err := read(s.Flag, text); text == s.Default || text == "" || err != nil {
		t.Fatalf("no other value for %s: %q, %v", s.Flag, text, err)
	}
	return value, text
}

// read parses a setting as the server does.
func read(flag, text string) error {
	var s server.Settings
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(flags)
	return flags.Set(flag, text)
}

// verify checks with systemd-analyze the unit that NixOS makes from a service. Another program replaces the
// builder.
func verify(t *testing.T, s service) {
	t.Helper()
	var unit strings.Builder
	unit.WriteString("[Unit]\nDescription=Test\n[Service]\n")
	for name, value := range s.Environment {
		quoted, err := json.Marshal(name + "=" + value)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&unit, "Environment=%s\n", quoted)
	}
	for key, value := range s.ServiceConfig {
		if key == "ExecStart" {
			value = "/bin/true"
		}
		for _, text := range texts(value) {
			fmt.Fprintf(&unit, "%s=%s\n", key, text)
		}
	}
	name := filepath.Join(t.TempDir(), "iglu-builder.service")
	if err := os.WriteFile(name, []byte(unit.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", name).CombinedOutput()
	if err != nil || len(output) > 0 {
		t.Errorf("%v: %s\n%s", err, output, &unit)
	}
}

// texts returns a value of a unit, or several, as NixOS writes them.
func texts(value any) (list []string) {
	values, isList := value.([]any)
	if !isList {
		values = []any{value}
	}
	for _, v := range values {
		list = append(list, fmt.Sprint(v))
	}
	return list
}
