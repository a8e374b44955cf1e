package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// maxDrivers limits the CSI drivers of a node; maxTopology the topology labels of one, and maxNodeID the bytes of its name of the node.
	maxDrivers, maxTopology, maxNodeID = 128, 64, 256
	// nodeIDs is the annotation of a Node with the drivers' names of it.
	nodeIDs = "csi.volume.kubernetes.io/nodeid"
)

// ReportDriver implements NodeService. A worker may report about its own node only, and its drivers set the labels that a worker may set.
func (s *Server) ReportDriver(ctx context.Context, r *nodev1.ReportDriverRequest) (*nodev1.ReportDriverResponse, error) {
	name, ok := s.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "this needs a worker's certificate")
	}
	if err := checkDriver(r); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	response := &nodev1.ReportDriverResponse{}
	err := retry.OnError(retry.DefaultRetry, again, func() error {
		view, err := s.Client.Consistent(ctx)
		if err != nil {
			return err
		}
		node, ok := client.Get[*corev1.Node](view, "", name)
		if !ok {
			return status.Errorf(codes.NotFound, "node %s does not exist", name)
		}
		if driver, ok := client.Get[*storagev1.CSIDriver](view, "", r.Name); ok {
			response.UpdateSeconds = ptr.Deref(driver.Spec.NodeAllocatableUpdatePeriodSeconds, 0)
		}
		if err := s.labelNode(ctx, node, r); err != nil {
			return err
		}
		return s.writeDriver(ctx, view, node, r)
	})
	switch _, ok := status.FromError(err); {
	case err == nil:
		return response, nil
	case ok:
		return nil, err
	case apierrors.IsInvalid(err) || apierrors.IsForbidden(err):
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return nil, status.Error(codes.Unavailable, err.Error())
}

func checkDriver(r *nodev1.ReportDriverRequest) error {
	switch {
	case r.Name == "" || len(r.Name) > 63:
		return fmt.Errorf("name: it has %d bytes, and may have 1 to 63", len(r.Name))
	case r.Gone && (r.NodeId != "" || len(r.Topology) > 0 || r.MaxVolumes != 0):
		return errors.New("gone: a driver that has gone has no node_id, topology or max_volumes")
	case r.Gone:
		return nil
	case r.NodeId == "" || len(r.NodeId) > maxNodeID:
		return fmt.Errorf("node_id: it has %d bytes, and may have 1 to %d", len(r.NodeId), maxNodeID)
	case len(r.Topology) > maxTopology:
		return fmt.Errorf("topology: %d labels, the limit is %d", len(r.Topology), maxTopology)
	case r.MaxVolumes < 0 || r.MaxVolumes > 1<<31-1:
		return fmt.Errorf("max_volumes: %d is not from 0 to %d", r.MaxVolumes, 1<<31-1)
	}
	if _, refused := ownLabels(r.Topology); len(refused) > 0 {
		slices.Sort(refused)
		return fmt.Errorf("topology: a worker may not set the labels %q on its node", refused)
	}
	return nil
}

// labelNode sets the topology labels of a driver and the annotation with its name of the node, as kubelets do. The labels of a driver that has
// gone stay.
func (s *Server) labelNode(ctx context.Context, stored *corev1.Node, r *nodev1.ReportDriverRequest) error {
	node := stored.DeepCopy()
	ids := map[string]string{}
	if text := node.Annotations[nodeIDs]; text != "" {
		if err := json.Unmarshal([]byte(text), &ids); err != nil || ids == nil {
			ids = map[string]string{} // somebody has spoilt it
		}
	}
	if r.Gone {
		delete(ids, r.Name)
	} else {
		ids[r.Name] = r.NodeId
	}
	if len(ids) > maxDrivers {
		return status.Errorf(codes.ResourceExhausted, "node %s has %d drivers, which is the limit", stored.Name, maxDrivers)
	}
	if len(ids) == 0 {
		delete(node.Annotations, nodeIDs)
	} else {
		text, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		metav1.SetMetaDataAnnotation(&node.ObjectMeta, nodeIDs, string(text))
	}
	for _, label := range slices.Sorted(maps.Keys(r.Topology)) {
		value := r.Topology[label]
		if have, ok := node.Labels[label]; ok && have != value {
			return status.Errorf(codes.FailedPrecondition, "detected topology value collision: driver reported %q:%q but existing label is %q:%q", label, value, label, have)
		}
		metav1.SetMetaDataLabel(&node.ObjectMeta, label, value)
	}
	if maps.Equal(node.Labels, stored.Labels) && maps.Equal(node.Annotations, stored.Annotations) {
		return nil
	}
	_, err := client.Update(ctx, s.Client, node)
	return err
}

// writeDriver writes a driver to the node's CSINode.
func (s *Server) writeDriver(ctx context.Context, view client.View, node *corev1.Node, r *nodev1.ReportDriverRequest) error {
	stored, ok := client.Get[*storagev1.CSINode](view, "", node.Name)
	if !ok {
		if r.Gone {
			return nil
		}
		owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
		_, err := client.Create(ctx, s.Client, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node.Name, OwnerReferences: []metav1.OwnerReference{owner}},
			Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{driverOf(r)}}})
		return err
	}
	changed := stored.DeepCopy()
	i := slices.IndexFunc(changed.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == r.Name })
	if i >= 0 && !r.Gone && reflect.DeepEqual(changed.Spec.Drivers[i], driverOf(r)) || i < 0 && r.Gone {
		return nil
	}
	var before *storagev1.CSINodeDriver
	if i >= 0 {
		before = stored.Spec.Drivers[i].DeepCopy()
		changed.Spec.Drivers = slices.Delete(changed.Spec.Drivers, i, i+1)
	}
	if r.Gone {
		_, err := client.Update(ctx, s.Client, changed)
		return err
	}
	if len(changed.Spec.Drivers) >= maxDrivers {
		return status.Errorf(codes.ResourceExhausted, "node %s has %d drivers, which is the limit", node.Name, maxDrivers)
	}
	if now := driverOf(r); before != nil && (before.NodeID != now.NodeID || !slices.Equal(before.TopologyKeys, now.TopologyKeys)) {
		// A driver's entry may not change, but for how many volumes can be attached: it is removed first.
		var err error
		if changed, err = client.Update(ctx, s.Client, changed); err != nil {
			return err
		}
		changed = changed.DeepCopy()
	}
	changed.Spec.Drivers = append(changed.Spec.Drivers, driverOf(r))
	_, err := client.Update(ctx, s.Client, changed)
	return err
}

func driverOf(r *nodev1.ReportDriverRequest) storagev1.CSINodeDriver {
	d := storagev1.CSINodeDriver{Name: r.Name, NodeID: r.NodeId, TopologyKeys: slices.Sorted(maps.Keys(r.Topology))}
	if r.MaxVolumes > 0 {
		d.Allocatable = &storagev1.VolumeNodeResources{Count: new(int32(r.MaxVolumes))}
	}
	return d
}
