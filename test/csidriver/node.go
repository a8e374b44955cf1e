package csidriver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Node is the node service.
type Node struct {
	csi.UnimplementedNodeServer
	store *store
	o     Options

	mu    sync.Mutex
	calls []proto.Message
	fails map[string]error
}

// Options say how a driver behaves.
type Options struct {
	// Dir is the folder with the volumes, which all nodes share.
	Dir string
	// NodeID is the driver's name of the node.
	NodeID string
	// Real maps paths that the agent names to paths where the driver runs; nil if they are the same.
	Real func(string) string
	// NoStage is a driver without NodeStageVolume; MountGroup one that gives volumes to the fsGroup.
	NoStage, MountGroup bool
	// Unattached is a driver whose volumes are not attached.
	Unattached bool
	// MaxVolumes is what NodeGetInfo says.
	MaxVolumes int64
}

// Calls returns the requests of the node service that change something, in their order.
func (n *Node) Calls() []proto.Message {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]proto.Message(nil), n.calls...)
}

// Fail makes the operations of a request's type fail until it is called with nil.
func (n *Node) Fail(request proto.Message, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fails == nil {
		n.fails = map[string]error{}
	}
	n.fails[string(request.ProtoReflect().Descriptor().Name())] = err
}

func (n *Node) note(request proto.Message) error {
	n.mu.Lock()
	n.calls = append(n.calls, request)
	n.mu.Unlock()
	return n.failure(request)
}

// failure returns what Fail was called with.
func (n *Node) failure(request proto.Message) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fails[string(request.ProtoReflect().Descriptor().Name())]
}

func (n *Node) real(path string) string {
	if n.o.Real == nil {
		return path
	}
	return n.o.Real(path)
}

// NodeGetInfo implements csi.NodeServer.
func (n *Node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.o.NodeID, MaxVolumesPerNode: n.o.MaxVolumes,
		AccessibleTopology: &csi.Topology{Segments: map[string]string{"topology." + Name + "/node": n.o.NodeID}}}, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (n *Node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	types := []csi.NodeServiceCapability_RPC_Type{csi.NodeServiceCapability_RPC_GET_VOLUME_STATS, csi.NodeServiceCapability_RPC_EXPAND_VOLUME, csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER}
	if !n.o.NoStage {
		types = append(types, csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
	}
	if n.o.MountGroup {
		types = append(types, csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP)
	}
	r := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range types {
		r.Capabilities = append(r.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

// attached returns an error if a volume is not attached to the node, or the agent does not pass on what the attachment says.
func (n *Node) attached(v *volume, context map[string]string) error {
	if n.o.Unattached {
		return nil
	}
	if _, ok := v.Attached[n.o.NodeID]; !ok || context[attachment] != v.ID+"@"+n.o.NodeID {
		return status.Errorf(codes.FailedPrecondition, "volume %s is not attached to node %s, or publish_context is %v", v.ID, n.o.NodeID, context)
	}
	return nil
}

// NodeStageVolume implements csi.NodeServer.
func (n *Node) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, invalid("volume_id is missing")
	case r.GetStagingTargetPath() == "":
		return nil, invalid("staging_target_path is missing")
	case r.GetVolumeCapability() == nil:
		return nil, invalid("volume_capability is missing")
	}
	if err := n.note(r); err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, n.store.locked(func() error {
		v, err := n.store.found(r.GetVolumeId())
		if err != nil {
			return err
		}
		if err := n.attached(v, r.GetPublishContext()); err != nil {
			return err
		}
		if err := os.WriteFile(n.store.path(v.ID, "staged-"+n.o.NodeID), nil, 0o600); err != nil || r.GetVolumeCapability().GetBlock() != nil {
			return err
		}
		return bindAt(n.store.path(v.ID, "data"), n.real(r.GetStagingTargetPath()), false)
	})
}

// NodeUnstageVolume implements csi.NodeServer.
func (n *Node) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, invalid("volume_id is missing")
	case r.GetStagingTargetPath() == "":
		return nil, invalid("staging_target_path is missing")
	}
	if err := n.note(r); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, n.store.locked(func() error {
		if err := unmountAt(n.real(r.GetStagingTargetPath())); err != nil {
			return err
		}
		err := os.Remove(n.store.path(filepath.Base(r.GetVolumeId()), "staged-"+n.o.NodeID))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

// NodePublishVolume implements csi.NodeServer. A volume that does not exist and that a pod defines itself is made in the target.
func (n *Node) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	ephemeral := r.GetVolumeContext()["csi.storage.k8s.io/ephemeral"] == "true"
	switch {
	case r.GetVolumeId() == "":
		return nil, invalid("volume_id is missing")
	case r.GetTargetPath() == "":
		return nil, invalid("target_path is missing")
	case r.GetVolumeCapability() == nil:
		return nil, invalid("volume_capability is missing")
	case r.GetStagingTargetPath() == "" && !n.o.NoStage && !ephemeral:
		return nil, status.Error(codes.FailedPrecondition, "staging_target_path is missing")
	}
	if err := n.note(r); err != nil {
		return nil, err
	}
	target := n.real(r.GetTargetPath())
	return &csi.NodePublishVolumeResponse{}, n.store.locked(func() error {
		if ephemeral {
			return n.publishEphemeral(r, target)
		}
		v, err := n.store.found(r.GetVolumeId())
		if err != nil {
			return err
		}
		if err := n.attached(v, r.GetPublishContext()); err != nil {
			return err
		}
		alone := r.GetVolumeCapability().GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		if alone && len(v.Published) > 0 && !v.Published[r.GetTargetPath()] {
			return status.Errorf(codes.FailedPrecondition, "volume %s is published at another path", v.ID)
		}
		if v.Published == nil {
			v.Published = map[string]bool{}
		}
		v.Published[r.GetTargetPath()] = true
		if err := n.store.save(v); err != nil {
			return err
		}
		if r.GetVolumeCapability().GetBlock() != nil {
			return publishDevice(n.store.path(v.ID, "data"), target)
		}
		from := n.store.path(v.ID, "data")
		if !n.o.NoStage {
			from = n.real(r.GetStagingTargetPath())
		}
		return bindAt(from, target, r.GetReadonly())
	})
}

// publishEphemeral mounts a tmpfs with what the driver was told.
func (n *Node) publishEphemeral(r *csi.NodePublishVolumeRequest, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if !isMount(target) {
		if err := unix.Mount("tmpfs", target, "tmpfs", 0, "mode=0755,size=1m"); err != nil {
			return err
		}
	}
	for name, value := range r.GetVolumeContext() {
		if err := os.WriteFile(filepath.Join(target, filepath.Base(name)), []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// NodeUnpublishVolume implements csi.NodeServer.
func (n *Node) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, invalid("volume_id is missing")
	case r.GetTargetPath() == "":
		return nil, invalid("target_path is missing")
	}
	if err := n.note(r); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, n.store.locked(func() error {
		target := n.real(r.GetTargetPath())
		if err := unpublishDevice(target); err != nil {
			return err
		}
		if err := unmountAt(target); err != nil {
			return err
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		v, err := n.store.load(r.GetVolumeId())
		if err != nil || v == nil {
			return err
		}
		delete(v.Published, r.GetTargetPath())
		return n.store.save(v)
	})
}

// NodeGetVolumeStats implements csi.NodeServer. The capacity is the one for which the file system was made.
func (n *Node) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, invalid("volume_id is missing")
	case r.GetVolumePath() == "":
		return nil, invalid("volume_path is missing")
	}
	v, err := n.store.found(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(n.real(r.GetVolumePath())); err != nil {
		return nil, notFound("volume %s is not at %s", v.ID, r.GetVolumePath())
	}
	if err := n.failure(r); err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: v.Node, Used: 4096, Available: max(0, v.Node-4096)}, {Unit: csi.VolumeUsage_INODES, Total: 100, Used: 1, Available: 99}}}, nil
}

// NodeExpandVolume implements csi.NodeServer.
func (n *Node) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, invalid("volume_id is missing")
	case r.GetVolumePath() == "":
		return nil, invalid("volume_path is missing")
	}
	if err := n.note(r); err != nil {
		return nil, err
	}
	var size int64
	err := n.store.locked(func() error {
		v, err := n.store.found(r.GetVolumeId())
		if err != nil {
			return err
		}
		if _, err := os.Lstat(n.real(r.GetVolumePath())); err != nil {
			return notFound("volume %s is not at %s", v.ID, r.GetVolumePath())
		}
		v.Node, size = v.Capacity, v.Capacity
		return n.store.save(v)
	})
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size}, err
}
