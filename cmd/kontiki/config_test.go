package main

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/cmd/kontiki/process"
)

// command returns a command beside its siblings, with whom it shares configuration files.
func command(name string) *cobra.Command {
	c, _, err := root().Find([]string{name})
	if err != nil {
		panic(err)
	}
	return c
}

// configured returns a command whose flags were given and then completed from a configuration file.
func configured(t *testing.T, cmd *cobra.Command, text string, args ...string) (*cobra.Command, string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags(append([]string{"--config", path}, args...)); err != nil {
		t.Fatal(err)
	}
	return cmd, path, process.LoadConfig(cmd, path)
}

func mustConfigure(t *testing.T, cmd *cobra.Command, text string, args ...string) *pflag.FlagSet {
	t.Helper()
	cmd, _, err := configured(t, cmd, text, args...)
	if err != nil {
		t.Fatal(err)
	}
	return cmd.Flags()
}

// value returns a flag's value in its type.
func value[T any](t *testing.T, get func(string) (T, error), name string) T {
	t.Helper()
	v, err := get(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestConfigSetsEveryTypeOfFlag(t *testing.T) {
	f := mustConfigure(t, command("server"), `
name: master-1
api-port: 7443
no-agent: true
default-toleration-seconds: 3000000
join: [10.0.0.1:6444, "10.0.0.2:6444"]
tls-san:
  - api.example.com
node-labels:
  zone: a
  rack: 7
  ssd: true
`)
	if got := value(t, f.GetString, "name"); got != "master-1" {
		t.Errorf("name: %q", got)
	}
	if got := value(t, f.GetInt, "api-port"); got != 7443 {
		t.Errorf("api-port: %d", got)
	}
	if !value(t, f.GetBool, "no-agent") {
		t.Error("no-agent is not set")
	}
	if got := value(t, f.GetInt64, "default-toleration-seconds"); got != 3000000 {
		t.Errorf("default-toleration-seconds: %d", got)
	}
	if got := value(t, f.GetStringSlice, "join"); !slices.Equal(got, []string{"10.0.0.1:6444", "10.0.0.2:6444"}) {
		t.Errorf("join: %q", got)
	}
	if got := value(t, f.GetStringSlice, "tls-san"); !slices.Equal(got, []string{"api.example.com"}) {
		t.Errorf("tls-san: %q", got)
	}
	if got := value(t, f.GetStringToString, "node-labels"); !maps.Equal(got, map[string]string{"zone": "a", "rack": "7", "ssd": "true"}) {
		t.Errorf("node-labels: %q", got)
	}
}

func TestConfigTakesListsAndMapsAsFlagsWriteThem(t *testing.T) {
	f := mustConfigure(t, command("agent"), "join: 10.0.0.1:6444,10.0.0.2:6444\nnode-labels: zone=a,rack=7\n")
	if got := value(t, f.GetStringSlice, "join"); !slices.Equal(got, []string{"10.0.0.1:6444", "10.0.0.2:6444"}) {
		t.Errorf("join: %q", got)
	}
	if got := value(t, f.GetStringToString, "node-labels"); !maps.Equal(got, map[string]string{"zone": "a", "rack": "7"}) {
		t.Errorf("node-labels: %q", got)
	}
}

func TestFlagsWinOverConfig(t *testing.T) {
	f := mustConfigure(t, command("server"), "name: from-file\napi-port: 7443\njoin: [10.0.0.1:6444]\nnode-labels: {zone: a}\n",
		"--name", "from-flag", "--join", "10.0.0.9:6444", "--node-labels", "zone=b")
	if got := value(t, f.GetString, "name"); got != "from-flag" {
		t.Errorf("name: %q", got)
	}
	if got := value(t, f.GetStringSlice, "join"); !slices.Equal(got, []string{"10.0.0.9:6444"}) {
		t.Errorf("join: %q", got)
	}
	if got := value(t, f.GetStringToString, "node-labels"); !maps.Equal(got, map[string]string{"zone": "b"}) {
		t.Errorf("node-labels: %q", got)
	}
	if got := value(t, f.GetInt, "api-port"); got != 7443 {
		t.Errorf("api-port: %d", got)
	}
}

func TestConfigKeyWithoutValueLeavesTheDefault(t *testing.T) {
	f := mustConfigure(t, command("server"), "token:\napi-port:\n")
	if got := value(t, f.GetString, "token"); got != "" {
		t.Errorf("token: %q", got)
	}
	if got := value(t, f.GetInt, "api-port"); got != 6443 {
		t.Errorf("api-port: %d", got)
	}
}

func TestOneConfigServesServerAndAgent(t *testing.T) {
	const text = "service-cidr: 10.97.0.0/16\nmax-pods: 42\n" // the first is the server's alone
	if got := value(t, mustConfigure(t, command("agent"), text).GetInt, "max-pods"); got != 42 {
		t.Errorf("agent: max-pods: %d", got)
	}
	server := mustConfigure(t, command("server"), text)
	if got := value(t, server.GetInt, "max-pods"); got != 42 {
		t.Errorf("server: max-pods: %d", got)
	}
	if got := value(t, server.GetString, "service-cidr"); got != "10.97.0.0/16" {
		t.Errorf("server: service-cidr: %q", got)
	}
}

func TestConfigErrorsNameFileAndKey(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":         {"nmae: x", ": nmae: there is no such setting; `kontiki server --help` lists them"},
		"not a number":        {"api-port: lots", ": api-port: lots: "},
		"fraction":            {"max-pods: 1.5", ": max-pods: 1.5: "},
		"list for one value":  {"name: [a, b]", ": name: [a b]: it takes one value, not a list"},
		"map for one value":   {"name: {a: b}", ": name: map[a:b]: it takes no mapping"},
		"map for a list":      {"join: {a: b}", ": join: map[a:b]: it takes no mapping"},
		"list in a list":      {"join: [[a]]", ": join: [[a]]: its elements must be plain values"},
		"map in a map":        {"node-labels: {a: {b: c}}", ": node-labels: map[a:map[b:c]]: its elements must be plain values"},
		"list for a map":      {"node-labels: [a=b]", ": node-labels: [a=b]: it takes one value, not a list"},
		"label without value": {"node-labels: zone", ": node-labels: zone: "},
		"no mapping at all":   {"- name", ": "},
		"not YAML":            {"name: [", ": "},
	} {
		_, path, err := configured(t, command("server"), c.text)
		if err == nil || !strings.HasPrefix(err.Error(), path+c.want) {
			t.Errorf("%s: the error is %v, want it to begin with %s%s", name, err, path, c.want)
		}
	}
}

func TestConfigFileMayBeMissingOnlyWhereNobodyNamedIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	if err := process.LoadConfig(command("server"), path); err != nil {
		t.Errorf("the default file is missing: %v", err)
	}
	cmd := command("server")
	if err := cmd.ParseFlags([]string{"--config", path}); err != nil {
		t.Fatal(err)
	}
	err := process.LoadConfig(cmd, path)
	if err == nil || !strings.Contains(err.Error(), path) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a named file is missing: %v", err)
	}
}

// Every flag can be set in the file, by its name and with the text that --help shows as its default.
func TestEveryFlagCanStandInTheConfig(t *testing.T) {
	for _, name := range []string{"server", "agent"} {
		values := map[string]any{}
		command(name).Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "config" && !strings.HasPrefix(f.DefValue, "[") {
				values[f.Name] = f.DefValue
			}
		})
		if len(values) < 8 {
			t.Fatalf("only %d flags", len(values))
		}
		text, err := yaml.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		flags := mustConfigure(t, command(name), string(text))
		for name, want := range values {
			if f := flags.Lookup(name); !f.Changed || f.Value.String() != want {
				t.Errorf("%s: %q (set: %v), want %q", name, f.Value, f.Changed, want)
			}
		}
	}
}
