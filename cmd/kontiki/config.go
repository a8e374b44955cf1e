package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// Where everything is by default.
const (
	defaultServerDir = "/var/lib/kontiki/server"
	defaultAgentDir  = "/var/lib/kontiki/agent"
	defaultConfig    = "/etc/kontiki/config.yaml"
)

// loadConfig sets the flags that were not given from a configuration file, whose keys are the flags' names.
func loadConfig(cmd *cobra.Command, path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("config") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(data, &values); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for name, value := range values {
		flag := cmd.Flags().Lookup(name)
		if flag == nil {
			if isOtherCommandsFlag(name) {
				continue
			}
			return fmt.Errorf("%s: %s: there is no such setting; `kontiki %s --help` lists them", path, name, cmd.Name())
		}
		if flag.Changed {
			continue
		}
		if err := set(flag, value); err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
	}
	return nil
}

// isOtherCommandsFlag lets one file serve server and agent.
func isOtherCommandsFlag(name string) bool {
	for _, cmd := range []*cobra.Command{serverCommand(), agentCommand()} {
		if cmd.Flags().Lookup(name) != nil {
			return true
		}
	}
	return false
}

func set(flag *pflag.Flag, value any) error {
	text := fmt.Sprint(value)
	if list, ok := value.([]any); ok {
		var parts []string
		for _, item := range list {
			parts = append(parts, fmt.Sprint(item))
		}
		text = strings.Join(parts, ",")
	}
	if err := flag.Value.Set(text); err != nil {
		return fmt.Errorf("%v: %w", value, err)
	}
	flag.Changed = true
	return nil
}

// hostAddress is the address that other hosts reach this one by, unless a flag says so: the first global IPv4 one.
func hostAddress(given string) (string, error) {
	if given != "" {
		if net.ParseIP(given) == nil {
			return "", fmt.Errorf("--node-ip: %q is not an IP address", given)
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
