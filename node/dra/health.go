package dra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	healthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/node/podspec"
)

const (
	// healthTimeout is how long what a driver says of a device is valid, unless it says otherwise. It is the kubelet's.
	healthTimeout = 30 * time.Second
	// healthPause is how long after the end of a stream another is tried.
	healthPause = 5 * time.Second
	// maxHealth limits the devices of one report.
	maxHealth = 10000
)

// deviceName names a device of a driver.
type deviceName struct{ pool, name string }

// health is what a driver has said of a device.
type health struct {
	status  corev1.ResourceHealthStatus
	message string
	until   time.Time
}

// watcher is DRAResourceHealth in version v1; older versions are wrapped.
type watcher interface {
	NodeWatchResources(ctx context.Context, in *healthv1.NodeWatchResourcesRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[healthv1.NodeWatchResourcesResponse], error)
}

// watcherOf returns the optional service by which a driver reports the health of its devices (KEP-4680), nil if it has none.
func watcherOf(conn grpc.ClientConnInterface, versions []string) watcher {
	switch {
	case slices.Contains(versions, healthv1.DRAResourceHealthService):
		return healthv1.NewDRAResourceHealthClient(conn)
	case slices.Contains(versions, healthv1alpha1.DRAResourceHealthService):
		return healthv1.V1Alpha1ClientWrapper{Client: healthv1alpha1.NewDRAResourceHealthClient(conn)}
	}
	return nil
}

// watch follows the health of a driver's devices until ctx ends, or the driver turns out not to report it.
func (m *Manager) watch(ctx context.Context, d *driver, w watcher) {
	for {
		err := contain.Run(func() error { return m.follow(ctx, d, w) })
		m.setHealth(d, nil)
		if status.Code(err) == codes.Unimplemented {
			return
		}
		if ctx.Err() == nil {
			slog.Debug("a DRA driver's reports of health ended", "driver", d.name, "err", err)
		}
		if !pause.For(ctx, healthPause) {
			return
		}
	}
}

func (m *Manager) follow(ctx context.Context, d *driver, w watcher) error {
	stream, err := w.NodeWatchResources(ctx, &healthv1.NodeWatchResourcesRequest{})
	if err != nil {
		return err
	}
	for {
		report, err := stream.Recv()
		if err != nil {
			return err
		}
		if len(report.Devices) > maxHealth {
			return fmt.Errorf("it reports the health of %d devices, and at most %d are supported", len(report.Devices), maxHealth)
		}
		all := make(map[deviceName]health, len(report.Devices))
		for _, r := range report.Devices {
			name := deviceName{r.GetDevice().GetPoolName(), r.GetDevice().GetDeviceName()}
			if len(name.pool) > maxName || len(name.name) > maxName {
				return errors.New("it reports the health of a device with a name that is too long")
			}
			all[name] = healthOf(r)
		}
		m.setHealth(d, all)
	}
}

func healthOf(r *healthv1.DeviceHealth) health {
	h := health{status: corev1.ResourceHealthStatusUnknown, message: r.GetMessage(), until: time.Now().Add(healthTimeout)}
	switch r.GetHealth() {
	case healthv1.HealthStatus_HEALTHY:
		h.status = corev1.ResourceHealthStatusHealthy
	case healthv1.HealthStatus_UNHEALTHY:
		h.status = corev1.ResourceHealthStatusUnhealthy
	}
	const longest = corev1.ResourceHealthMessageMaxLength
	if len(h.message) > longest {
		h.message = strings.ToValidUTF8(h.message[:longest-3], "") + "..."
	}
	if s := r.GetHealthCheckTimeoutSeconds(); s > 0 {
		h.until = time.Now().Add(time.Duration(min(s, 365*24*3600)) * time.Second)
	}
	return h
}

// setHealth takes over what a driver has said, unless another program of the driver has taken its place.
func (m *Manager) setHealth(d *driver, all map[deviceName]health) {
	m.mu.Lock()
	list := m.drivers[d.name]
	if len(list) > 0 && list[len(list)-1] != d {
		m.mu.Unlock()
		return
	}
	old := m.health[d.name]
	if m.health[d.name] = all; all == nil {
		delete(m.health, d.name)
	}
	changed := !maps.EqualFunc(old, all, func(a, b health) bool { return a.status == b.status && a.message == b.message })
	m.mu.Unlock()
	if changed && m.c.Changed != nil {
		m.c.Changed()
	}
}

// Health returns the claimed devices of a container, and whether their drivers say that they are healthy.
func (m *Manager) Health(pod *corev1.Pod, container string) []corev1.ResourceStatus {
	c, _ := podspec.Container(pod, container)
	if c == nil || len(c.Resources.Claims) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []corev1.ResourceStatus
	for _, used := range c.Resources.Claims {
		i := slices.IndexFunc(pod.Spec.ResourceClaims, func(p corev1.PodResourceClaim) bool { return p.Name == used.Name })
		if i < 0 {
			continue
		}
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || name == nil || m.claims[key{pod.Namespace, *name}] == nil {
			continue
		}
		s := corev1.ResourceStatus{Name: corev1.ResourceName("claim:" + used.Name)}
		if used.Request != "" {
			s.Name += corev1.ResourceName("/" + used.Request)
		}
		if s.Resources = m.healthOf(m.claims[key{pod.Namespace, *name}], used.Request); len(s.Resources) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// healthOf returns the health of the devices of a claim's request. The caller holds mu.
func (m *Manager) healthOf(c *claim, request string) []corev1.ResourceHealth {
	var out []corev1.ResourceHealth
	for _, driver := range slices.Sorted(maps.Keys(c.drivers)) {
		for _, d := range c.drivers[driver].Devices {
			if !d.of(request) {
				continue
			}
			r := corev1.ResourceHealth{ResourceID: corev1.ResourceID(driver + "/" + d.Pool + "/" + d.Name), Health: corev1.ResourceHealthStatusUnknown}
			if len(d.CDI) > 0 {
				r.ResourceID = corev1.ResourceID(d.CDI[0])
			}
			if slices.ContainsFunc(out, func(o corev1.ResourceHealth) bool { return o.ResourceID == r.ResourceID }) {
				continue
			}
			if h, ok := m.health[driver][deviceName{d.Pool, d.Name}]; ok && time.Now().Before(h.until) {
				r.Health = cmp.Or(h.status, r.Health)
				if h.message != "" {
					r.Message = &h.message
				}
			}
			out = append(out, r)
		}
	}
	return out
}
