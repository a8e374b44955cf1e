package csidriver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

func capability(block bool) *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}}
	if block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}
	}
	return c
}

// Create makes a volume in the folder of a driver and returns its handle.
func Create(dir, name string, size int64, block bool) (string, error) {
	c := &controller{store: &store{dir}}
	r, err := c.CreateVolume(context.Background(), &csi.CreateVolumeRequest{Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapabilities: []*csi.VolumeCapability{capability(block)}})
	return r.GetVolume().GetVolumeId(), err
}

// Attach attaches a volume to a node and returns what is published about that.
func Attach(dir, handle, node string) (map[string]string, error) {
	c := &controller{store: &store{dir}}
	r, err := c.ControllerPublishVolume(context.Background(), &csi.ControllerPublishVolumeRequest{VolumeId: handle, NodeId: node, VolumeCapability: capability(false)})
	return r.GetPublishContext(), err
}
