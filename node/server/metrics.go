package server

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/node/runtime"
)

// collector counts running pods and containers.
type collector struct {
	s                *Server
	pods, containers *prometheus.Desc
	images           *prometheus.Desc
	name             *prometheus.Desc
	running, started *prometheus.Desc
}

func newCollector(s *Server) *collector {
	return &collector{s,
		prometheus.NewDesc("kontiki_node_pods", "Pods on this node by phase.", []string{"phase"}, nil),
		prometheus.NewDesc("kontiki_node_containers", "Containers on this node by state.", []string{"state"}, nil),
		prometheus.NewDesc("kontiki_node_images", "Images on this node.", nil, nil),
		prometheus.NewDesc("kubelet_node_name", "The node's name. The count is always 1.", []string{"node"}, nil),
		prometheus.NewDesc("kubelet_running_pods", "Number of pods that have a running container", nil, nil),
		prometheus.NewDesc("kubelet_running_containers", "Number of containers currently running", []string{"container_state"}, nil),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	phases := map[string]int{}
	for _, p := range c.s.c.Pods.Pods() {
		phases[string(p.Status.Phase)]++
	}
	for k, n := range phases {
		ch <- prometheus.MustNewConstMetric(c.pods, prometheus.GaugeValue, float64(n), k)
	}
	if c.s.c.Node != nil {
		if n := c.s.c.Node(); n != nil {
			ch <- prometheus.MustNewConstMetric(c.name, prometheus.GaugeValue, 1, n.Name)
		}
	}
	if list, err := c.s.c.Runtime.ListContainers(ctx, ""); err == nil {
		states, running := map[string]int{}, map[string]bool{}
		for _, i := range list {
			states[i.State.String()]++
			if i.State == runtime.StateRunning {
				running[i.PodUID] = true
			}
		}
		ch <- prometheus.MustNewConstMetric(c.running, prometheus.GaugeValue, float64(len(running)))
		for k, n := range states {
			ch <- prometheus.MustNewConstMetric(c.containers, prometheus.GaugeValue, float64(n), k)
			ch <- prometheus.MustNewConstMetric(c.started, prometheus.GaugeValue, float64(n), strings.ToLower(k))
		}
	}
	if list, err := c.s.c.Runtime.ListImages(ctx); err == nil {
		ch <- prometheus.MustNewConstMetric(c.images, prometheus.GaugeValue, float64(len(list)))
	}
}
