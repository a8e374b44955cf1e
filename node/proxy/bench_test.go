package proxy

import (
	"fmt"
	"testing"
)

func thousand() *world {
	w := newWorld()
	for i := range 1000 {
		name := fmt.Sprintf("s%d", i)
		w.service(name, fmt.Sprintf("10.96.%d.%d", i/250, i%250+1), nil)
		w.services[name].Spec.Ports = w.services[name].Spec.Ports[:1]
		w.endpoints(name, ep{fmt.Sprintf("10.244.%d.%d", i/250, i%250+1), "a", ""}, ep{fmt.Sprintf("10.244.%d.%d", 10+i/250, i%250+1), "b", ""})
	}
	return w
}

// BenchmarkFullLoad writes 1,000 services of two endpoints into the kernel, as at the start of an agent.
func BenchmarkFullLoad(b *testing.B) {
	a, _, _ := twoNodes(b)
	w := thousand()
	for b.Loop() {
		a.Proxy.applied.valid = false
		w.apply(b, a.Proxy)
	}
}

// BenchmarkOneEndpoint changes one endpoint of one of 1,000 services.
func BenchmarkOneEndpoint(b *testing.B) {
	a, _, _ := twoNodes(b)
	w := thousand()
	w.apply(b, a.Proxy)
	i := 0
	for b.Loop() {
		i++
		w.endpoints("s500", ep{fmt.Sprintf("10.244.9.%d", i%250+1), "a", ""})
		w.apply(b, a.Proxy)
	}
}
