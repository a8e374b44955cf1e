package volume

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/node/volume/csimount"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// csiKind is the kind of the volumes that CSI drivers mount, which node/volume/csimount does.
func (m *Manager) csiKind() plugin {
	return plugin{name: "csi", labelled: true, slow: true,
		supports: func(s *source) bool { return csimount.Mounts(s.namespace, s.volume, s.pv) },
		prepare: func(r *request, s *State) (err error) {
			if err := m.canCSI(); err != nil {
				return err
			}
			s.CSI, err = m.csi.Prepare(m.forDriver(r))
			return err
		},
		mount:   func(ctx context.Context, r *request) (string, error) { return m.csi.Mount(ctx, m.forDriver(r)) },
		refresh: func(ctx context.Context, r *request) error { return m.csi.Refresh(ctx, m.forDriver(r)) },
		unmount: func(ctx context.Context, uid string, s *State) error {
			if s.CSI == nil || !s.CSI.Begun {
				return nil
			}
			if err := m.canCSI(); err != nil {
				return err
			}
			return m.csi.Unmount(ctx, csimount.Key{UID: uid, Volume: s.Volume}, s.CSI)
		},
	}
}

// canCSI returns an error on a node that has no CSI drivers.
func (m *Manager) canCSI() error {
	if m.c.Kubelet == nil || m.c.CSI == nil {
		return fmt.Errorf("%w: csi, on a node without a kubelet's folder", ErrUnsupported)
	}
	return nil
}

func (m *Manager) forDriver(r *request) *csimount.Request {
	out := &csimount.Request{Pod: r.pod, Volume: r.volume, PV: r.pv, ReadOnly: r.readOnly, Block: r.block, Options: r.mountOptions(), Dir: r.dir}
	if r.state != nil {
		out.State, out.Mounted = r.state.CSI, r.state.Mounted
		out.Save = func() error { return m.saveState(string(r.pod.UID), *r.state) }
	}
	return out
}

// newMounter makes what mounts volumes of CSI drivers. The states of previous processes are loaded.
func (m *Manager) newMounter() *csimount.Mounter {
	known := map[csimount.Key]csimount.State{}
	for uid, volumes := range m.states {
		for _, s := range volumes {
			if s.CSI != nil {
				known[csimount.Key{UID: uid, Volume: s.Volume}] = *s.CSI
			}
		}
	}
	c := csimount.Config{NodeName: m.c.NodeName, Kubelet: m.c.Kubelet, Drivers: m.c.CSI, Objects: m.c.Objects, Token: m.driverToken, Node: m.c.ClusterNode,
		InUseChanged: m.c.InUseChanged, DueChanged: m.rouse, ReportExpansion: m.c.ReportExpansion, Event: m.c.Event}
	if c.Node == nil {
		c.Node = func() *corev1.Node { return nil }
	}
	if c.InUseChanged == nil {
		c.InUseChanged = func() {}
	}
	if c.Event == nil {
		c.Event = func(*corev1.Pod, string, string, string) {}
	}
	return csimount.New(c, known)
}

// driverToken issues a token for a driver.
func (m *Manager) driverToken(ctx context.Context, pod *corev1.Pod, asked *storagev1.TokenRequest) (authenticationv1.TokenRequestStatus, time.Time, error) {
	request := &nodev1.CreateTokenRequest{Namespace: pod.Namespace, ServiceAccount: pod.Spec.ServiceAccountName, PodName: pod.Name, PodUid: string(pod.UID),
		ExpirationSeconds: ptr.Deref(asked.ExpirationSeconds, 3600)}
	if asked.Audience != "" {
		request.Audiences = []string{asked.Audience}
	}
	now := time.Now()
	response, err := m.c.Token(ctx, request)
	if err != nil {
		return authenticationv1.TokenRequestStatus{}, time.Time{}, err
	}
	expires := time.Unix(response.ExpiresAt, 0)
	return authenticationv1.TokenRequestStatus{Token: response.Token, ExpirationTimestamp: metav1.NewTime(expires)}, renewAt(now, expires), nil
}

// InUse returns the names of the volumes that are attached and that pods use, or are about to, for the Node's status.
func (m *Manager) InUse() []corev1.UniqueVolumeName { return m.csi.InUse() }

// NodeChanged notes that the Node, as the masters have it, or attachments to it have changed.
func (m *Manager) NodeChanged() { m.csi.NodeChanged() }

// AttachLimitError is the error for a volume that cannot be attached because the node has too many: the pod is refused, so that its controller makes
// another one, which the scheduler places by what is known of the node by then. Its text is the kubelet's.
type AttachLimitError struct{ Volume string }

func (e *AttachLimitError) Error() string {
	return fmt.Sprintf("Node has reached its volume attachment limit, rejecting pod. unmounted volumes=[%s], unattached volumes=[%s], failed to process volumes=[]: context deadline exceeded", e.Volume, e.Volume)
}

// Rejects is the reason for which the pod is refused.
func (e *AttachLimitError) Rejects() string { return "VolumeAttachmentLimitExceeded" }
