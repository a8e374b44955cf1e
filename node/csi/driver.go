// Package csi talks to the CSI drivers of a node (https://github.com/container-storage-interface/spec, version 1): Drivers knows those that have
// registered and tells the masters about them, and Driver is the client of one. What is mounted where, and when, is in node/volume/csimount.
//
// Drivers run as pods, or beside the agent. They are trusted with volumes, since they mount them, but not with the agent: their answers are
// bounded in size and time, and checked.
package csi

import (
	"context"
	"errors"
	"fmt"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
)

const (
	// callTime is how long a driver may take for an operation, as for the kubelet.
	callTime = 2 * time.Minute
	// statsTime is how long it may take to tell the statistics of a volume.
	statsTime = 10 * time.Second
	// maxMessage is the size of a driver's answer, in bytes.
	maxMessage = 1 << 20
	// maxUsages bounds the entries of a volume's statistics.
	maxUsages = 16
)

// Driver is the client of a CSI driver's node service. Safe for concurrent use.
type Driver struct {
	name       string
	connection *grpc.ClientConn
	node       spec.NodeClient
}

// Name is that of the driver.
func (d *Driver) Name() string { return d.name }

// Info is what a driver says about the node.
type Info struct {
	NodeID     string
	MaxVolumes int64
	Topology   map[string]string
}

// Info asks a driver about the node.
func (d *Driver) Info(ctx context.Context) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := d.node.NodeGetInfo(ctx, &spec.NodeGetInfoRequest{})
	if err != nil {
		return Info{}, fmt.Errorf("NodeGetInfo: %w", err)
	}
	if r.GetNodeId() == "" {
		return Info{}, errors.New("NodeGetInfo: node_id is empty")
	}
	return Info{r.GetNodeId(), max(0, r.GetMaxVolumesPerNode()), r.GetAccessibleTopology().GetSegments()}, nil
}

// Capabilities are what the node service of a driver can do.
type Capabilities struct {
	// Stage: volumes are staged on the node before they are published for pods. Stats: their statistics are known. Expand: they must be told when a
	// volume has grown. MultiWriter: the access modes for one node are told apart. MountGroup: they give volumes to the pod's fsGroup.
	Stage, Stats, Expand, MultiWriter, MountGroup bool
}

// Capabilities asks a driver what it can do.
func (d *Driver) Capabilities(ctx context.Context) (Capabilities, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var c Capabilities
	r, err := d.node.NodeGetCapabilities(ctx, &spec.NodeGetCapabilitiesRequest{})
	if err != nil {
		return c, fmt.Errorf("NodeGetCapabilities: %w", err)
	}
	for _, one := range r.GetCapabilities() {
		switch one.GetRpc().GetType() {
		case spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME:
			c.Stage = true
		case spec.NodeServiceCapability_RPC_GET_VOLUME_STATS:
			c.Stats = true
		case spec.NodeServiceCapability_RPC_EXPAND_VOLUME:
			c.Expand = true
		case spec.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER:
			c.MultiWriter = true
		case spec.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP:
			c.MountGroup = true
		}
	}
	return c, nil
}

// Volume is what a driver is told of a volume. Paths are as drivers see them.
type Volume struct {
	Handle string
	// AccessMode is the first of the PersistentVolume.
	AccessMode corev1.PersistentVolumeAccessMode
	// MultiWriter says that the driver tells the access modes for one node apart.
	MultiWriter bool
	Block       bool
	FSType      string
	Options     []string
	// Group is the fsGroup that the driver gives the volume to, "" for none.
	Group string
	// PublishContext is what the attachment says, Attributes what the volume says, Secrets what its Secret says.
	PublishContext, Attributes, Secrets map[string]string
}

func (v *Volume) capability() *spec.VolumeCapability {
	c := &spec.VolumeCapability{AccessMode: &spec.VolumeCapability_AccessMode{Mode: v.mode()}}
	if v.Block {
		c.AccessType = &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{FsType: v.FSType, MountFlags: v.Options, VolumeMountGroup: v.Group}}
	}
	return c
}

func (v *Volume) mode() spec.VolumeCapability_AccessMode_Mode {
	switch v.AccessMode {
	case corev1.ReadWriteOnce:
		if v.MultiWriter {
			return spec.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		}
		return spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	case corev1.ReadWriteOncePod:
		if v.MultiWriter {
			return spec.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		}
		return spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	case corev1.ReadOnlyMany:
		return spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case corev1.ReadWriteMany:
		return spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	}
	return spec.VolumeCapability_AccessMode_UNKNOWN
}

// Stage makes a volume available on the node at a path.
func (d *Driver) Stage(ctx context.Context, v *Volume, path string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := d.node.NodeStageVolume(ctx, &spec.NodeStageVolumeRequest{VolumeId: v.Handle, PublishContext: v.PublishContext, StagingTargetPath: path,
		VolumeCapability: v.capability(), Secrets: v.Secrets, VolumeContext: v.Attributes})
	return err
}

// Unstage reverses Stage.
func (d *Driver) Unstage(ctx context.Context, handle, path string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := d.node.NodeUnstageVolume(ctx, &spec.NodeUnstageVolumeRequest{VolumeId: handle, StagingTargetPath: path})
	return err
}

// Publish makes a volume available for a pod at a path; staged is where it was staged, "" if it was not.
func (d *Driver) Publish(ctx context.Context, v *Volume, staged, path string, readOnly bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := d.node.NodePublishVolume(ctx, &spec.NodePublishVolumeRequest{VolumeId: v.Handle, PublishContext: v.PublishContext, StagingTargetPath: staged, TargetPath: path,
		VolumeCapability: v.capability(), Readonly: readOnly, Secrets: v.Secrets, VolumeContext: v.Attributes})
	return err
}

// Unpublish reverses Publish.
func (d *Driver) Unpublish(ctx context.Context, handle, path string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := d.node.NodeUnpublishVolume(ctx, &spec.NodeUnpublishVolumeRequest{VolumeId: handle, TargetPath: path})
	return err
}

// Expand tells the driver that a volume has grown to a size in bytes.
func (d *Driver) Expand(ctx context.Context, v *Volume, staged, path string, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := d.node.NodeExpandVolume(ctx, &spec.NodeExpandVolumeRequest{VolumeId: v.Handle, VolumePath: path, StagingTargetPath: staged, CapacityRange: &spec.CapacityRange{RequiredBytes: size},
		VolumeCapability: v.capability(), Secrets: v.Secrets})
	return err
}

// Usage is how full a volume is; values are 0 if the driver does not say.
type Usage struct {
	Bytes, Inodes struct{ Total, Used, Available uint64 }
}

// Stats asks for the statistics of a volume that is published at a path.
func (d *Driver) Stats(ctx context.Context, handle, staged, path string) (Usage, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTime)
	defer cancel()
	var u Usage
	r, err := d.node.NodeGetVolumeStats(ctx, &spec.NodeGetVolumeStatsRequest{VolumeId: handle, VolumePath: path, StagingTargetPath: staged})
	if err != nil {
		return u, err
	}
	if len(r.GetUsage()) > maxUsages {
		return u, fmt.Errorf("NodeGetVolumeStats: %d usages, the limit is %d", len(r.GetUsage()), maxUsages)
	}
	for _, one := range r.GetUsage() {
		into := &u.Bytes
		switch one.GetUnit() {
		case spec.VolumeUsage_INODES:
			into = &u.Inodes
		case spec.VolumeUsage_BYTES:
		default:
			return u, fmt.Errorf("NodeGetVolumeStats: unknown unit %d", one.GetUnit())
		}
		if one.GetTotal() < 0 || one.GetUsed() < 0 || one.GetAvailable() < 0 {
			return u, errors.New("NodeGetVolumeStats: a negative value")
		}
		into.Total, into.Used, into.Available = uint64(one.GetTotal()), uint64(one.GetUsed()), uint64(one.GetAvailable())
	}
	return u, nil
}

// Finished says whether an operation that failed has surely ended: after other errors it may still be going on.
func Finished(err error) bool {
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	}
	return true
}

// Infeasible says whether an expansion that failed would fail each time.
func Infeasible(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.NotFound:
		return true
	}
	return false
}
