package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/node/kubeletroot"
	"github.com/kontiki/kontiki/node/plugins"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// maxDrivers is how many drivers, by their names, a node may have. The masters have the same limit.
	maxDrivers = 128
	// maxReports limits what is kept for the masters while none can be reached: drivers come and go meanwhile.
	maxReports = 2 * maxDrivers
	// reportTime is how long a registration waits for the masters, and reportRetry when a report that failed is tried again.
	reportTime, reportRetry = 10 * time.Second, 10 * time.Second
	// leastUpdate is how often a driver is asked at most how many volumes it can attach, whatever its CSIDriver says.
	leastUpdate = 10 * time.Second
)

// Config has the parameters of Drivers.
type Config struct {
	Root *kubeletroot.Root
	// Report tells the masters about a driver; it may fail while there is no session with a master.
	Report func(ctx context.Context, r *nodev1.ReportDriverRequest) (*nodev1.ReportDriverResponse, error)
	// Changed is called when a driver has registered: pods may be waiting for it.
	Changed func()
}

// Drivers are the CSI drivers of the node. It is the handler of plugins of type CSIPlugin. While two of one name serve, as during the update of a
// DaemonSet, the one that registered last is used. Safe for concurrent use.
type Drivers struct {
	c Config

	mu      sync.Mutex
	serving map[string][]*served // by name, the last one is used
	reports map[string]*report   // by name
	wake    chan struct{}
	turn    sync.Mutex // one report at a time, so that they arrive in order
}

type served struct {
	socket string
	driver *Driver
}

// report is what the masters should know of a driver.
type report struct {
	request *nodev1.ReportDriverRequest
	due     bool
	retry   time.Time
	// update is when the driver is asked again; zero for never.
	update time.Time
}

// New returns Drivers that know none yet.
func New(c Config) *Drivers {
	return &Drivers{c: c, serving: map[string][]*served{}, reports: map[string]*report{}, wake: make(chan struct{}, 1)}
}

// Driver returns the client of a driver. The error is the kubelet's.
func (d *Drivers) Driver(name string) (*Driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if all := d.serving[name]; len(all) > 0 {
		return all[len(all)-1].driver, nil
	}
	return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}

// Register implements plugins.Handler.
func (d *Drivers) Register(ctx context.Context, p plugins.Plugin) error {
	if err := check(p); err != nil {
		return err
	}
	connection, err := plugins.Connect(d.c.Root, p.Endpoint, maxMessage)
	if err != nil {
		return err
	}
	driver := &Driver{p.Name, connection, spec.NewNodeClient(connection)}
	info, err := driver.Info(ctx)
	if err != nil {
		return errors.Join(err, connection.Close())
	}
	d.mu.Lock()
	if d.serving[p.Name] == nil && len(d.serving) >= maxDrivers {
		d.mu.Unlock()
		return errors.Join(fmt.Errorf("the node has %d CSI drivers, which is the limit", maxDrivers), connection.Close())
	}
	if d.reports[p.Name] == nil && len(d.reports) >= maxReports {
		d.mu.Unlock()
		return errors.Join(fmt.Errorf("the node has %d CSI drivers, with those that are gone and of which no master could be told yet; that is the limit", maxReports), connection.Close())
	}
	d.serving[p.Name] = append(d.serving[p.Name], &served{p.Socket, driver})
	d.mu.Unlock()
	if err := d.tell(ctx, p.Name, info); err != nil {
		d.Deregister(p)
		return err
	}
	d.c.Changed()
	return nil
}

// check refuses names and versions that kubelets refuse.
func check(p plugins.Plugin) error {
	if problems := validation.IsDNS1123Subdomain(p.Name); len(problems) > 0 || len(p.Name) > 63 {
		return fmt.Errorf("the CSI driver's name %.100q is not a DNS name of at most 63 bytes", p.Name)
	}
	if len(p.Versions) == 0 {
		return fmt.Errorf("validation failed for CSI Driver %s at endpoint %s: Plugin returned an empty list for supported versions", p.Name, p.Endpoint)
	}
	if _, err := version.HighestSupportedVersion(p.Versions); err != nil {
		return fmt.Errorf("validation failed for CSI Driver %s at endpoint %s: None of the versions specified %q are supported. err=%w", p.Name, p.Endpoint, p.Versions, err)
	}
	return nil
}

// Deregister implements plugins.Handler.
func (d *Drivers) Deregister(p plugins.Plugin) {
	d.mu.Lock()
	all := d.serving[p.Name]
	i := slices.IndexFunc(all, func(s *served) bool { return s.socket == p.Socket })
	if i < 0 {
		d.mu.Unlock()
		return
	}
	gone := all[i]
	if all = slices.Delete(slices.Clone(all), i, i+1); len(all) > 0 {
		d.serving[p.Name] = all
	} else {
		delete(d.serving, p.Name)
		d.reports[p.Name] = &report{request: &nodev1.ReportDriverRequest{Name: p.Name, Gone: true}, due: true}
	}
	d.mu.Unlock()
	gone.driver.connection.Close()
	broadcast.Poke(d.wake)
}

// tell tells the masters about a driver. If they cannot be reached, they are told later and that is no error, so that drivers can be used while
// all masters are down.
func (d *Drivers) tell(ctx context.Context, name string, info Info) error {
	d.mu.Lock()
	d.reports[name] = &report{request: &nodev1.ReportDriverRequest{Name: name, NodeId: info.NodeID, Topology: info.Topology, MaxVolumes: info.MaxVolumes}, due: true}
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	err := d.send(ctx, name)
	switch status.Code(err) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.ResourceExhausted, codes.PermissionDenied:
		return err
	}
	broadcast.Poke(d.wake)
	return nil
}

// send sends what is due about a driver.
func (d *Drivers) send(ctx context.Context, name string) error {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.mu.Lock()
	r := d.reports[name]
	if r == nil || !r.due {
		d.mu.Unlock()
		return nil
	}
	d.mu.Unlock()
	response, err := d.c.Report(ctx, r.request)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		r.retry = time.Now().Add(reportRetry)
		return fmt.Errorf("report the CSI driver %s: %w", name, err)
	}
	r.due = false
	if r.request.Gone && d.reports[name] == r {
		delete(d.reports, name)
	}
	if r.update = (time.Time{}); response.GetUpdateSeconds() > 0 {
		r.update = time.Now().Add(max(time.Duration(response.GetUpdateSeconds())*time.Second, leastUpdate))
	}
	return nil
}

// Announce has all drivers reported again, as at the beginning of a session: the Node may be a new one.
func (d *Drivers) Announce() {
	d.mu.Lock()
	for _, r := range d.reports {
		r.due, r.retry = true, time.Time{}
	}
	d.mu.Unlock()
	broadcast.Poke(d.wake)
}

// AskAgain has a driver asked how many volumes it can attach.
func (d *Drivers) AskAgain(name string) {
	d.mu.Lock()
	if r := d.reports[name]; r != nil {
		r.update = time.Now()
	}
	d.mu.Unlock()
	broadcast.Poke(d.wake)
}

// Run reports what could not be reported at once, and asks drivers again how many volumes they can attach, until ctx ends.
func (d *Drivers) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-d.wake:
		}
		timer.Reset(d.round(ctx))
	}
}

// round does what is due, and returns when the next is.
func (d *Drivers) round(ctx context.Context) time.Duration {
	now, next := time.Now(), time.Hour
	var reports, updates []string
	d.mu.Lock()
	for name, r := range d.reports {
		switch {
		case r.due && !now.Before(r.retry):
			reports = append(reports, name)
		case r.due:
			next = min(next, r.retry.Sub(now))
		case !r.update.IsZero() && !now.Before(r.update):
			updates = append(updates, name)
		case !r.update.IsZero():
			next = min(next, r.update.Sub(now))
		}
	}
	d.mu.Unlock()
	for _, name := range updates {
		d.update(ctx, name)
	}
	for _, name := range append(reports, updates...) {
		limited, cancel := context.WithTimeout(ctx, reportTime)
		if err := d.send(limited, name); err != nil && ctx.Err() == nil {
			slog.Debug("a report is tried again later", "err", err)
		}
		cancel()
		next = min(next, time.Second) // look when its next time is
	}
	return next
}

// update asks a driver again.
func (d *Drivers) update(ctx context.Context, name string) {
	driver, err := d.Driver(name)
	if err != nil {
		return
	}
	info, err := driver.Info(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.reports[name]
	if r == nil || r.request.Gone {
		return
	}
	if err != nil {
		slog.Warn("ask a CSI driver again", "driver", name, "err", err)
		r.update = time.Now().Add(time.Minute)
		return
	}
	d.reports[name] = &report{request: &nodev1.ReportDriverRequest{Name: name, NodeId: info.NodeID, Topology: info.Topology, MaxVolumes: info.MaxVolumes}, due: true}
}
