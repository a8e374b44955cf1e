package volume

import (
	"context"
	"log/slog"

	"github.com/kontiki/kontiki/node/csi"
)

// Usage is how full a volume of a pod is.
type Usage struct {
	// Volume is its name in the pod; Claim that of its claim, "" if it has none.
	Volume, Claim string
	csi.Usage
}

// Usage returns how full the volumes of a pod are whose CSI drivers say so.
func (m *Manager) Usage(ctx context.Context, uid string) []Usage {
	var out []Usage
	for _, s := range m.statesOf(uid) {
		if s.CSI == nil || !s.Mounted || m.c.CSI == nil {
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
		one := Usage{Volume: s.Volume, Usage: usage}
		if pv, ok := m.c.Objects.PersistentVolume(s.PersistentVolume); ok && pv.Spec.ClaimRef != nil {
			one.Claim = pv.Spec.ClaimRef.Name
		}
		out = append(out, one)
	}
	return out
}
