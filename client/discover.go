package client

import (
	"context"
	"net"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// Discover asks the cluster for the addresses of all its masters, the endpoints of the service default/kubernetes, and adds those that are
// not known yet: then one address is enough to connect with. The given ones stay, as only they may be what is
// reached from here (a balancer, a tunnel). Masters that Discover added earlier and that have left are dropped, with what is open on
// them. Call it after Dial, and again as often as the cluster's masters may change. It needs the right to list EndpointSlices in the namespace
// default.
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

// replace puts found in the place of what was found before, and answers what is no longer known.
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
	c.current = max(0, slices.Index(kept, current)) // the first one was given
	return gone
}
