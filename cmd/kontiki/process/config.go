package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// Default paths, beside admin.DefaultServerDir.
const (
	DefaultAgentDir = "/var/lib/kontiki/agent"
	DefaultConfig   = "/etc/kontiki/config.yaml"
)

// LoadConfig sets the flags that were not given on the command line from a configuration file, whose keys are the flags' names.
func LoadConfig(cmd *cobra.Command, path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("config") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var values map[string]any
	asWritten := func(d *json.Decoder) *json.Decoder { // numbers too: a float64 would print 3000000 as 3e+06
		d.UseNumber()
		return d
	}
	if err := yaml.Unmarshal(data, &values, asWritten); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		flag := cmd.Flags().Lookup(name)
		if flag == nil {
			if isOtherCommandsFlag(cmd, name) {
				continue
			}
			return fmt.Errorf("%s: %s: there is no such setting; `kontiki %s --help` lists them", path, name, cmd.Name())
		}
		if flag.Changed || value == nil { // a key without a value keeps the default
			continue
		}
		if err := set(flag, value); err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
	}
	return nil
}

// isOtherCommandsFlag allows one file to be used for server and agent: it finds a flag of a command beside cmd that is configured by a file too.
func isOtherCommandsFlag(cmd *cobra.Command, name string) bool {
	for _, other := range cmd.Root().Commands() {
		if f := other.Flags(); f.Lookup("config") != nil && f.Lookup(name) != nil {
			return true
		}
	}
	return false
}

func set(flag *pflag.Flag, value any) error {
	var err error
	switch v := value.(type) {
	case []any:
		err = setList(flag, v)
	case map[string]any:
		err = setMap(flag, v)
	default:
		err = flag.Value.Set(fmt.Sprint(v))
	}
	if err != nil {
		return fmt.Errorf("%v: %w", value, err)
	}
	flag.Changed = true
	return nil
}

func setList(flag *pflag.Flag, items []any) error {
	list, ok := flag.Value.(pflag.SliceValue)
	if !ok {
		return errors.New("it takes one value, not a list")
	}
	texts := make([]string, len(items))
	for i, item := range items {
		var err error
		if texts[i], err = scalar(item); err != nil {
			return err
		}
	}
	return list.Replace(texts)
}

func setMap(flag *pflag.Flag, pairs map[string]any) error {
	if flag.Value.Type() != "stringToString" {
		return errors.New("it takes no mapping")
	}
	// One pair at a time, each added to those before, so that a value with a comma is not split.
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		text, err := scalar(pairs[key])
		if err != nil {
			return err
		}
		if err := flag.Value.Set(key + "=" + text); err != nil {
			return err
		}
	}
	return nil
}

// scalar returns an element of a list or mapping as text.
func scalar(value any) (string, error) {
	switch value.(type) {
	case nil:
		return "", nil
	case []any, map[string]any:
		return "", errors.New("its elements must be plain values")
	}
	return fmt.Sprint(value), nil
}
