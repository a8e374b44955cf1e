package client

import (
	"context"
	"net"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// Discover reads the addresses of all masters from the endpoints of the service default/kubernetes, and adds those that are not
// known yet: so one address is enough to connect with. The configured ones stay, as they may be the only ones that can be reached
// from here (a load balancer, a tunnel). Masters that Discover added earlier and that have left are removed, which ends open calls
// on them. Call it after Dial, and again as often as the cluster's masters may change. It needs the permission to list
// EndpointSlices in the namespace default.
func (c *Client) Discover(ctx context.Context) error {
	slicesFound, _, err := List[*discoveryv1.EndpointSlice](ctx, c, "default", Labels(discoveryv1.LabelServiceName+"=kubernetes"))
	if err != nil {
		return err
	}
	var found []string
	for _, s := range slicesFound {
		for _, port := range s.Ports {
			if port.Port == nil || port.Name != nil && *port.Name != "https" {
				continue
			}
			for _, e := range s.Endpoints {
				for _, address := range e.Addresses {
					found = append(found, net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	for _, e := range c.replace(found) {
		e.close()
	}
	return nil
}

// replace replaces the addresses that were found before by those in found, and returns the removed ones.
func (c *Client) replace(found []string) (gone []*endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	current := c.endpoints[c.current]
	var kept []*endpoint
	for _, e := range c.endpoints {
		if e.discovered && !slices.Contains(found, e.address) {
			gone = append(gone, e)
		} else {
			kept = append(kept, e)
		}
	}
	for _, address := range found {
		if !slices.ContainsFunc(kept, func(e *endpoint) bool { return e.address == address }) {
			kept = append(kept, &endpoint{address: address, options: c.options, discovered: true})
		}
	}
	c.endpoints = kept
	c.current = max(0, slices.Index(kept, current)) // the first one was configured
	return gone
}
