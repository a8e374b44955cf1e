package dra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	drav1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
)

// PluginType is the type with which drivers register.
const PluginType = "DRAPlugin"

const (
	// callTimeout is the kubelet's.
	callTimeout = 45 * time.Second
	// maxMessage limits a driver's response.
	maxMessage = 4 << 20
	// maxDrivers limits the drivers of a node, those that are being replaced included.
	maxDrivers = 100
)

// driver is the connection to one driver's program.
type driver struct {
	name, socket string
	conn         *grpc.ClientConn
	api          api
	// end ends following the health of the driver's devices.
	end context.CancelFunc
}

// api is DRAPlugin in version v1; older versions are wrapped.
type api interface {
	NodePrepareResources(ctx context.Context, in *drav1.NodePrepareResourcesRequest, opts ...grpc.CallOption) (*drav1.NodePrepareResourcesResponse, error)
	NodeUnprepareResources(ctx context.Context, in *drav1.NodeUnprepareResourcesRequest, opts ...grpc.CallOption) (*drav1.NodeUnprepareResourcesResponse, error)
}

func (d *driver) prepare(ctx context.Context, r *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return d.api.NodePrepareResources(ctx, r)
}

func (d *driver) unprepare(ctx context.Context, r *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return d.api.NodeUnprepareResources(ctx, r)
}

// Register takes a driver into use, which serves these versions at a socket.
func (m *Manager) Register(name, socket string, versions []string) error {
	d := &driver{name: name, socket: socket}
	v1, beta := slices.Contains(versions, drav1.DRAPluginService), slices.Contains(versions, drav1beta1.DRAPluginService)
	if !v1 && !beta {
		return fmt.Errorf("DRA driver %s supports %.200q: want one of %s and %s", name, versions, drav1.DRAPluginService, drav1beta1.DRAPluginService)
	}
	conn, err := m.c.Connect(socket, maxMessage)
	if err != nil {
		return err
	}
	if d.conn = conn; v1 {
		d.api = drav1.NewDRAPluginClient(conn)
	} else {
		d.api = drav1beta1.V1Beta1ClientWrapper{DRAPluginClient: drav1beta1.NewDRAPluginClient(conn)}
	}
	ctx, end := context.WithCancel(context.Background())
	d.end = end
	if err := m.add(d); err != nil {
		end()
		return errors.Join(err, conn.Close())
	}
	if w := watcherOf(conn, versions); w != nil {
		m.watches.Go(func() { m.watch(ctx, d, w) })
	}
	slog.Info("a DRA driver is registered", "driver", name, "socket", socket)
	if m.c.Changed != nil {
		m.c.Changed()
	}
	return nil
}

func (m *Manager) add(d *driver) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := 0
	for _, list := range m.drivers {
		for _, other := range list {
			if other.socket == d.socket { // one driver cannot take over another's socket
				return fmt.Errorf("endpoint %s already registered for DRA driver plugin %s", d.socket, other.name)
			}
			all++
		}
	}
	if all >= maxDrivers {
		return fmt.Errorf("there are %d DRA drivers already", maxDrivers)
	}
	m.drivers[d.name] = append(m.drivers[d.name], d)
	delete(m.wipes, d.name)
	return nil
}

// Deregister forgets a driver that has gone from a socket.
func (m *Manager) Deregister(name, socket string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drivers[name] = slices.DeleteFunc(m.drivers[name], func(d *driver) bool {
		if d.socket != socket {
			return false
		}
		d.end()
		if err := d.conn.Close(); err != nil {
			slog.Debug("close the connection to a DRA driver", "driver", d.name, "err", err)
		}
		return true
	})
	if len(m.drivers[name]) > 0 {
		return
	}
	delete(m.drivers, name)
	slog.Warn("a DRA driver has gone", "driver", name, "socket", socket)
	m.wipes[name] = time.Now()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// driver returns the newest program of a driver, one that is connected if there is one.
func (m *Manager) driver(name string) (*driver, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.drivers[name]
	for _, d := range slices.Backward(list) {
		if d.conn.GetState() == connectivity.Ready {
			return d, nil
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("DRA driver %s is not registered", name)
	}
	return list[len(list)-1], nil
}

// Run removes the ResourceSlices of drivers that have gone until ctx ends. First, those of drivers that did not register within WipeAfter since
// the agent has started are removed.
func (m *Manager) Run(ctx context.Context) error {
	if m.c.RemoveSlices == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	m.mu.Lock()
	m.wipes[""] = time.Now()
	m.mu.Unlock()
	delay := time.Second
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		case <-timer.C:
		}
		next, err := m.wipe(ctx)
		if err != nil {
			slog.Debug("resource slices of a DRA driver that is gone could not be removed", "err", err, "next", delay)
			next, delay = delay, min(2*delay, 5*time.Minute)
		} else {
			delay = time.Second
		}
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// wipe removes the slices that are due, and returns when the next are; 0 means that there are none.
func (m *Manager) wipe(ctx context.Context) (next time.Duration, err error) {
	m.mu.Lock()
	due := map[string]time.Time{}
	for name, since := range m.wipes {
		if left := time.Until(since.Add(m.c.WipeAfter)); left <= 0 {
			due[name] = since
		} else if next == 0 || left < next {
			next = left
		}
	}
	registered := slices.Sorted(maps.Keys(m.drivers))
	m.mu.Unlock()
	for name, since := range due {
		if err := m.c.RemoveSlices(ctx, name, registered); err != nil {
			return 0, err
		}
		m.mu.Lock()
		if m.wipes[name].Equal(since) {
			delete(m.wipes, name)
		}
		m.mu.Unlock()
	}
	return next, nil
}

// Close closes the connections to drivers. No driver may be registered any more.
func (m *Manager) Close() {
	m.mu.Lock()
	for _, list := range m.drivers {
		for _, d := range list {
			d.end()
			_ = d.conn.Close()
		}
	}
	clear(m.drivers)
	m.mu.Unlock()
	m.watches.Wait()
}
