package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// Default paths, beside admin.DefaultServerDir.
const (
	defaultAgentDir = "/var/lib/kontiki/agent"
	defaultConfig   = "/etc/kontiki/config.yaml"
)

// loadConfig sets the flags that were not given on the command line from a configuration file, whose keys are the flags' names.
func loadConfig(cmd *cobra.Command, path string) error {
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
			if isOtherCommandsFlag(name) {
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

// isOtherCommandsFlag allows one file to be used for server and agent.
func isOtherCommandsFlag(name string) bool {
	for _, cmd := range []*cobra.Command{serverCommand(), agentCommand()} {
		if cmd.Flags().Lookup(name) != nil {
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

// hostAddress returns the address at which other hosts reach this one: the given one, or the first global IPv4 address.
func hostAddress(given string) (string, error) {
	if given != "" {
		ip := net.ParseIP(given)
		switch {
		case ip == nil:
			return "", fmt.Errorf("--node-ip: %q is not an IP address", given)
		case ip.IsLoopback(), ip.IsUnspecified(), ip.IsMulticast(), ip.IsLinkLocalUnicast():
			// Neither hosts nor pods can reach this host by it, and the API refuses it as an endpoint of default/kubernetes.
			return "", fmt.Errorf("--node-ip: %s is a loopback, link-local, multicast or unspecified address: other hosts and pods cannot reach this host at it", given)
		}
		return given, nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, address := range addresses {
		if n, ok := address.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("this host has no IPv4 address that others could reach; name one with --node-ip")
}

func hostName(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	name, err := os.Hostname()
	return strings.ToLower(name), err
}
