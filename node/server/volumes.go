package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/kontiki/kontiki/node/volume"
)

const (
	// volumesAtOnce is how many pods' volumes are asked about at the same time, and volumesTime how long that may take for all.
	volumesAtOnce = 8
	volumesTime   = 10 * time.Second
)

// volumesOf returns how full the volumes of pods are, as far as it is known, in the order of the UIDs.
func (s *Server) volumesOf(ctx context.Context, uids []string) [][]volume.Usage {
	out := make([][]volume.Usage, len(uids))
	if s.c.Volumes == nil {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, volumesTime)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(volumesAtOnce)
	for i, uid := range uids {
		group.Go(func() error {
			out[i] = s.c.Volumes(ctx, uid)
			return nil
		})
	}
	group.Wait() // they return no errors
	return out
}

// addVolumes adds the statistics of volumes that are known to those of pods.
func (s *Server) addVolumes(ctx context.Context, all []statsv1.PodStats) {
	uids := make([]string, len(all))
	for i := range all {
		uids[i] = all[i].PodRef.UID
	}
	for i, used := range s.volumesOf(ctx, uids) {
		p := &all[i]
		for _, u := range used {
			v := statsv1.VolumeStats{Name: u.Volume, FsStats: statsv1.FsStats{Time: metav1.NewTime(u.At), CapacityBytes: &u.Bytes.Total, UsedBytes: &u.Bytes.Used, AvailableBytes: &u.Bytes.Available,
				Inodes: &u.Inodes.Total, InodesUsed: &u.Inodes.Used, InodesFree: &u.Inodes.Available}}
			if u.Claim != "" {
				v.PVCRef = &statsv1.PVCReference{Name: u.Claim, Namespace: p.PodRef.Namespace}
			}
			p.VolumeStats = append(p.VolumeStats, v)
		}
	}
}

// volumeCollector provides the kubelet's metrics of claims, on which alerts about full volumes rest.
type volumeCollector struct{ s *Server }

// ofClaims are these metrics.
var ofClaims = []struct {
	desc  *prometheus.Desc
	value func(u *volume.Usage) uint64
}{
	{claimMetric("capacity_bytes", "Capacity in bytes of the volume"), func(u *volume.Usage) uint64 { return u.Bytes.Total }},
	{claimMetric("available_bytes", "Number of available bytes in the volume"), func(u *volume.Usage) uint64 { return u.Bytes.Available }},
	{claimMetric("used_bytes", "Number of used bytes in the volume"), func(u *volume.Usage) uint64 { return u.Bytes.Used }},
	{claimMetric("inodes", "Maximum number of inodes in the volume"), func(u *volume.Usage) uint64 { return u.Inodes.Total }},
	{claimMetric("inodes_free", "Number of free inodes in the volume"), func(u *volume.Usage) uint64 { return u.Inodes.Available }},
	{claimMetric("inodes_used", "Number of used inodes in the volume"), func(u *volume.Usage) uint64 { return u.Inodes.Used }},
}

func claimMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"}, nil)
}

// Describe implements prometheus.Collector.
func (c *volumeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range ofClaims {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *volumeCollector) Collect(ch chan<- prometheus.Metric) {
	all := c.s.c.Pods.Pods()
	uids := make([]string, len(all))
	for i, pod := range all {
		uids[i] = string(pod.UID)
	}
	seen := map[[2]string]bool{} // pods may share a claim
	for i, used := range c.s.volumesOf(context.Background(), uids) {
		for _, u := range used {
			claim := [2]string{all[i].Namespace, u.Claim}
			if u.Claim == "" || seen[claim] {
				continue
			}
			seen[claim] = true
			for _, m := range ofClaims {
				ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, float64(m.value(&u)), claim[0], claim[1])
			}
		}
	}
}
