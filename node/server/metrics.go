package server

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// collector counts running pods and containers.
type collector struct {
	s                *Server
	pods, containers *prometheus.Desc
	images, resident *prometheus.Desc
}

func newCollector(s *Server) *collector {
	return &collector{s,
		prometheus.NewDesc("kontiki_node_pods", "Pods on this node by phase.", []string{"phase"}, nil),
		prometheus.NewDesc("kontiki_node_containers", "Containers on this node by state.", []string{"state"}, nil),
		prometheus.NewDesc("kontiki_node_images", "Images on this node.", nil, nil),
		prometheus.NewDesc("process_resident_memory_bytes", "Resident memory size in bytes.", nil, nil),
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
	if list, err := c.s.c.Runtime.ListContainers(ctx, ""); err == nil {
		states := map[string]int{}
		for _, i := range list {
			states[i.State.String()]++
		}
		for k, n := range states {
			ch <- prometheus.MustNewConstMetric(c.containers, prometheus.GaugeValue, float64(n), k)
		}
	}
	if list, err := c.s.c.Runtime.ListImages(ctx); err == nil {
		ch <- prometheus.MustNewConstMetric(c.images, prometheus.GaugeValue, float64(len(list)))
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			n, _ := strconv.ParseFloat(f[1], 64)
			ch <- prometheus.MustNewConstMetric(c.resident, prometheus.GaugeValue, n*float64(unix.Getpagesize()))
		}
	}
}
