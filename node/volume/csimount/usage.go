package csimount

import (
	"context"
	"log/slog"
	"time"

	"github.com/kontiki/kontiki/node/csi"
)

// usageAge is how long a driver's answer is used, as by the kubelet.
const usageAge = time.Minute

// measured is how full a volume was when its driver was asked.
type measured struct {
	at time.Time
	csi.Usage
}

// Usage returns how full a mounted volume is, and when its driver was asked: at most a minute ago. It returns false if the driver does not say it.
func (m *Mounter) Usage(ctx context.Context, k Key, s *State) (csi.Usage, time.Time, bool) {
	m.mu.Lock()
	known := m.usages[k]
	m.mu.Unlock()
	if known != nil && time.Since(known.at) < usageAge {
		return known.Usage, known.at, true
	}
	driver, err := m.c.Drivers.Driver(s.Driver)
	if err != nil {
		return csi.Usage{}, time.Time{}, false
	}
	can, err := driver.Capabilities(ctx)
	if err != nil || !can.Stats {
		return csi.Usage{}, time.Time{}, false
	}
	staged := ""
	if can.Stage && s.Staging != "" {
		staged = m.c.Kubelet.Seen(s.Staging)
	}
	usage, err := driver.Stats(ctx, s.Handle, staged, m.c.Kubelet.Seen(s.Target))
	if err != nil {
		slog.Debug("the statistics of a volume are not known", "uid", k.UID, "volume", k.Volume, "err", err)
		return csi.Usage{}, time.Time{}, false
	}
	one := &measured{time.Now(), usage}
	m.mu.Lock()
	if m.states[k] != nil { // otherwise the pod has ended meanwhile
		m.usages[k] = one
	}
	m.mu.Unlock()
	return one.Usage, one.at, true
}
