package allocate

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// PodRangeFull is the cause in the error of a Node for which the cluster's pod range has no part left.
const PodRangeFull metav1.CauseType = "PodRangeFull"

const podRangePrefix = "/allocated/podcidrs/"

// Nodes allocates to each node a part of the cluster's pod range.
type Nodes struct {
	Range netip.Prefix
	// Bits is the length of a node's prefix (24).
	Bits int
	// Forget returns what else the command that deletes a node does; nil means nothing.
	Forget func(node string) []kv.Op

	next atomic.Uint64 // the number of the range at which to begin the search
}

// Allocate implements objects.Allocator.
func (n *Nodes) Allocate(view kv.View, obj, old registry.Object, dryRun bool) ([]kv.Op, error) {
	held := ""
	if old != nil {
		held = old.(*corev1.Node).Spec.PodCIDR
	}
	if obj == nil {
		var ops []kv.Op
		if held != "" {
			ops = append(ops, kv.Op{Key: podRangePrefix + held, Delete: true})
		}
		if n.Forget != nil {
			ops = append(ops, n.Forget(old.GetName())...)
		}
		return ops, nil
	}
	node := obj.(*corev1.Node)
	if node.Spec.PodCIDR == "" {
		free, err := n.free(view)
		if err != nil {
			return nil, err
		}
		node.Spec.PodCIDR = free
		node.Spec.PodCIDRs = []string{free}
	}
	if node.Spec.PodCIDR == held {
		return nil, nil
	}
	ops := []kv.Op{{Key: podRangePrefix + node.Spec.PodCIDR, Value: []byte(node.Name), Cond: kv.Absent}}
	if held != "" {
		ops = append(ops, kv.Op{Key: podRangePrefix + held, Delete: true})
	}
	return ops, nil
}

// free returns a range that is not taken. The search begins after the range that was found last, so that the ranges of N nodes cost N steps.
func (n *Nodes) free(view kv.View) (string, error) {
	count := uint64(1) << (n.Bits - n.Range.Bits())
	first := n.next.Load()
	for i := range count {
		at := (first + i) % count
		candidate := netip.PrefixFrom(offset(n.Range.Masked().Addr(), at<<(32-n.Bits)), n.Bits).String()
		if _, taken := view.Get(podRangePrefix + candidate); !taken {
			n.next.Store(at + 1)
			return candidate, nil
		}
	}
	full := apierrors.NewInternalError(fmt.Errorf("the pod range %s has no space for another node: it allows %d nodes with a /%d each", n.Range, count, n.Bits))
	full.ErrStatus.Details.Causes = append(full.ErrStatus.Details.Causes, metav1.StatusCause{Type: PodRangeFull, Message: full.ErrStatus.Message})
	return "", full
}
