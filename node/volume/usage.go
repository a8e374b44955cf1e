package volume

import (
	"context"
	"log/slog"
	"time"

	"github.com/kontiki/kontiki/node/csi"
)

// Usage is how full a volume of a pod is.
type Usage struct {
	// Volume is its name in the pod; Claim that of its claim, "" if it has none.
	Volume, Claim string
	// At is when the driver was asked.
	At time.Time
	csi.Usage
}

// usageAge is how long a driver's answer is used, as by the kubelet.
const usageAge = time.Minute

// Usage returns how full the volumes of a pod are whose CSI drivers say so, at most a minute ago.
func (m *Manager) Usage(ctx context.Context, uid string) []Usage {
	var out []Usage
	for _, s := range m.statesOf(uid) {
		if s.CSI == nil || !s.Mounted || m.c.CSI == nil {
			continue
		}
		k := operationKey{uid, s.Volume}
		m.mu.Lock()
		known := m.usages[k]
		m.mu.Unlock()
		if known != nil && time.Since(known.At) < usageAge {
			out = append(out, *known)
			continue
		}
		driver, err := m.c.CSI.Driver(s.CSI.Driver)
		if err != nil {
			continue
		}
		can, err := driver.Capabilities(ctx)
		if err != nil || !can.Stats {
			continue
		}
		staged := ""
		if can.Stage && s.CSI.Staging != "" {
			staged = m.c.Kubelet.Seen(s.CSI.Staging)
		}
		usage, err := driver.Stats(ctx, s.CSI.Handle, staged, m.c.Kubelet.Seen(s.CSI.Target))
		if err != nil {
			slog.Debug("the statistics of a volume are not known", "uid", uid, "volume", s.Volume, "err", err)
			continue
		}
		one := Usage{Volume: s.Volume, At: time.Now(), Usage: usage}
		if pv, ok := m.c.Objects.PersistentVolume(s.PersistentVolume); ok && pv.Spec.ClaimRef != nil {
			one.Claim = pv.Spec.ClaimRef.Name
		}
		m.mu.Lock()
		if m.states[uid][s.Volume] != nil { // otherwise the pod has ended meanwhile
			m.usages[k] = &one
		}
		m.mu.Unlock()
		out = append(out, one)
	}
	return out
}
