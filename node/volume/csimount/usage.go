package csimount

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/kontiki/kontiki/node/csi"
)

// usageAge is how long a driver's answer is used, as by the kubelet.
const usageAge = time.Minute

// measured is how full a volume was when its driver was asked; known is false if the driver did not say it.
type measured struct {
	at    time.Time
	known bool
	csi.Usage
}

// Usage returns how full a mounted volume is, and when its driver was asked: at most a minute ago. It returns false if the driver does not say it.
// A driver that fails or does not respond is not asked again for as long, so that it does not delay whoever wants to know of all volumes.
func (m *Mounter) Usage(ctx context.Context, k Key, s *State) (csi.Usage, time.Time, bool) {
	m.mu.Lock()
	last := m.usages[k]
	m.mu.Unlock()
	if last != nil && m.Now().Sub(last.at) < usageAge {
		return last.Usage, last.at, last.known
	}
	usage, known, err := m.measure(ctx, s)
	if errors.Is(ctx.Err(), context.Canceled) {
		return csi.Usage{}, time.Time{}, false // nobody wants to know any more
	}
	if err != nil {
		slog.Debug("the statistics of a volume are not known", "uid", k.UID, "volume", k.Volume, "err", err)
	}
	one := &measured{m.Now(), known, usage}
	m.mu.Lock()
	if m.states[k] != nil { // otherwise the pod has ended meanwhile
		m.usages[k] = one
	}
	m.mu.Unlock()
	return one.Usage, one.at, one.known
}

// measure asks a volume's driver. known is false without an error if it has no statistics.
func (m *Mounter) measure(ctx context.Context, s *State) (usage csi.Usage, known bool, err error) {
	driver, err := m.c.Drivers.Driver(s.Driver)
	if err != nil {
		return usage, false, err
	}
	can, err := driver.Capabilities(ctx)
	if err != nil || !can.Stats {
		return usage, false, err
	}
	staged := ""
	if can.Stage && s.Staging != "" {
		staged = m.c.Kubelet.Seen(s.Staging)
	}
	usage, err = driver.Stats(ctx, s.Handle, staged, m.c.Kubelet.Seen(s.Target))
	return usage, err == nil, err
}
