package volume

import (
	"context"
	"time"

	"github.com/kontiki/kontiki/node/csi"
	"github.com/kontiki/kontiki/node/volume/csimount"
)

// Usage is how full a volume of a pod is.
type Usage struct {
	// Volume is its name in the pod; Claim that of its claim, "" if it has none.
	Volume, Claim string
	// At is when the driver was asked.
	At time.Time
	csi.Usage
}

// Usage returns how full the volumes of a pod are whose CSI drivers say so, at most a minute ago.
func (m *Manager) Usage(ctx context.Context, uid string) []Usage {
	var out []Usage
	for _, s := range m.statesOf(uid) {
		if s.CSI == nil || !s.Mounted || m.c.CSI == nil {
			continue
		}
		usage, at, ok := m.csi.Usage(ctx, csimount.Key{UID: uid, Volume: s.Volume}, s.CSI)
		if !ok {
			continue
		}
		one := Usage{Volume: s.Volume, At: at, Usage: usage}
		if pv, ok := m.c.Objects.PersistentVolume(s.PersistentVolume); ok && pv.Spec.ClaimRef != nil {
			one.Claim = pv.Spec.ClaimRef.Name
		}
		out = append(out, one)
	}
	return out
}
