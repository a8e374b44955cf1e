package process

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// HostAddress returns the address at which other hosts reach this one: the given one, or the first global IPv4 address.
func HostAddress(given string) (string, error) {
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

// HostName returns the given name, or this host's own in lower case, as nodes are named.
func HostName(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	name, err := os.Hostname()
	return strings.ToLower(name), err
}
