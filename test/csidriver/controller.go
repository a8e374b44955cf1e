package csidriver

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	defaultSize, largest = 1 << 20, 1 << 40
	// attachment is the key in the publish context that the node service asks for.
	attachment = "attachment"
)

// identity is the identity service.
type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: "1"}, nil
}

func (identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := func(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
		return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}}
	}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE}}},
	}}, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// controller is the controller service.
type controller struct {
	csi.UnimplementedControllerServer
	store *store
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	r := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES, csi.ControllerServiceCapability_RPC_GET_CAPACITY, csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER, csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
	} {
		r.Capabilities = append(r.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}
func notFound(format string, args ...any) error {
	return status.Errorf(codes.NotFound, format, args...)
}

// found loads a volume, and returns NotFound if there is none.
func (s *store) found(id string) (*volume, error) {
	if id == "" {
		return nil, invalid("volume_id is missing")
	}
	v, err := s.load(id)
	if err == nil && v == nil {
		err = notFound("volume %s does not exist", id)
	}
	return v, err
}

func checkCapabilities(all []*csi.VolumeCapability) (block bool, err error) {
	if len(all) == 0 {
		return false, invalid("volume_capabilities are missing")
	}
	for _, c := range all {
		if c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_UNKNOWN || c.GetMount() == nil && c.GetBlock() == nil {
			return false, invalid("a volume_capability without access mode or type")
		}
		block = block || c.GetBlock() != nil
	}
	return block, nil
}

func sizeFor(r *csi.CapacityRange) (int64, error) {
	size := max(r.GetRequiredBytes(), 0)
	if size == 0 {
		size = defaultSize
		if limit := r.GetLimitBytes(); limit > 0 {
			size = min(size, limit)
		}
	}
	if size > largest || r.GetLimitBytes() > 0 && size > r.GetLimitBytes() {
		return 0, status.Errorf(codes.OutOfRange, "%d bytes are not possible", size)
	}
	return size, nil
}

func (v *volume) spec() *csi.Volume {
	return &csi.Volume{VolumeId: v.ID, CapacityBytes: v.Capacity, VolumeContext: map[string]string{"name": v.Name}}
}

func (c *controller) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (out *csi.CreateVolumeResponse, err error) {
	if r.GetName() == "" {
		return nil, invalid("name is missing")
	}
	block, err := checkCapabilities(r.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	if r.GetVolumeContentSource() != nil {
		return nil, invalid("volume_content_source is not supported")
	}
	size, err := sizeFor(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	err = c.store.locked(func() error {
		v, err := c.store.load(idOf(r.GetName()))
		if err != nil {
			return err
		}
		if v == nil {
			v = &volume{ID: idOf(r.GetName()), Name: r.GetName(), Capacity: size, Node: size, Block: block, Attached: map[string]bool{}}
			if err := c.store.create(v); err != nil {
				return err
			}
		}
		if v.Capacity < r.GetCapacityRange().GetRequiredBytes() || r.GetCapacityRange().GetLimitBytes() > 0 && v.Capacity > r.GetCapacityRange().GetLimitBytes() || v.Block != block {
			return status.Errorf(codes.AlreadyExists, "volume %s exists with %d bytes", r.GetName(), v.Capacity)
		}
		out = &csi.CreateVolumeResponse{Volume: v.spec()}
		return nil
	})
	return out, err
}

func (c *controller) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	err := c.store.locked(func() error {
		v, err := c.store.load(r.GetVolumeId())
		if err != nil || v == nil {
			return err
		}
		if len(v.Attached) > 0 {
			return status.Errorf(codes.FailedPrecondition, "volume %s is attached", v.ID)
		}
		return os.RemoveAll(c.store.path(v.ID))
	})
	return &csi.DeleteVolumeResponse{}, err
}

func (c *controller) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (out *csi.ControllerPublishVolumeResponse, err error) {
	if r.GetNodeId() == "" {
		return nil, invalid("node_id is missing")
	}
	if r.GetVolumeCapability() == nil {
		return nil, invalid("volume_capability is missing")
	}
	err = c.store.locked(func() error {
		v, err := c.store.found(r.GetVolumeId())
		if err != nil {
			return err
		}
		if !c.store.hasNode(r.GetNodeId()) {
			return notFound("node %s does not exist", r.GetNodeId())
		}
		if readOnly, ok := v.Attached[r.GetNodeId()]; ok && readOnly != r.GetReadonly() {
			return status.Errorf(codes.AlreadyExists, "volume %s is attached with readonly %t", v.ID, readOnly)
		}
		shared := r.GetVolumeCapability().GetAccessMode().GetMode() >= csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY &&
			r.GetVolumeCapability().GetAccessMode().GetMode() <= csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
		if _, here := v.Attached[r.GetNodeId()]; !here && len(v.Attached) > 0 && !shared {
			return status.Errorf(codes.FailedPrecondition, "volume %s is attached to another node", v.ID)
		}
		v.Attached[r.GetNodeId()] = r.GetReadonly()
		out = &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{attachment: v.ID + "@" + r.GetNodeId()}}
		return c.store.save(v)
	})
	return out, err
}

func (c *controller) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	err := c.store.locked(func() error {
		v, err := c.store.load(r.GetVolumeId())
		if err != nil || v == nil {
			return err
		}
		if _, err := os.Lstat(c.store.path(v.ID, "staged-"+r.GetNodeId())); err == nil && r.GetNodeId() != "" {
			return status.Errorf(codes.FailedPrecondition, "volume %s is still staged on node %s", v.ID, r.GetNodeId())
		}
		if r.GetNodeId() == "" {
			clear(v.Attached)
		}
		delete(v.Attached, r.GetNodeId())
		return c.store.save(v)
	})
	return &csi.ControllerUnpublishVolumeResponse{}, err
}

func (c *controller) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if _, err := checkCapabilities(r.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	if _, err := c.store.found(r.GetVolumeId()); err != nil {
		return nil, err
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.GetVolumeCapabilities()}}, nil
}

func (c *controller) ListVolumes(_ context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	all, err := c.store.list()
	if err != nil {
		return nil, err
	}
	from := 0
	if token := r.GetStartingToken(); token != "" {
		if from, err = strconv.Atoi(token); err != nil || from < 0 || from > len(all) {
			return nil, status.Errorf(codes.Aborted, "starting_token %q is not one", token)
		}
	}
	if r.GetMaxEntries() < 0 {
		return nil, invalid("max_entries is negative")
	}
	to := len(all)
	out := &csi.ListVolumesResponse{}
	if most := int(r.GetMaxEntries()); most > 0 && from+most < to {
		to = from + most
		out.NextToken = fmt.Sprint(to)
	}
	for _, v := range all[from:to] {
		out.Entries = append(out.Entries, &csi.ListVolumesResponse_Entry{Volume: v.spec()})
	}
	return out, nil
}

func (c *controller) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	return &csi.GetCapacityResponse{AvailableCapacity: largest}, nil
}

func (c *controller) ControllerExpandVolume(_ context.Context, r *csi.ControllerExpandVolumeRequest) (out *csi.ControllerExpandVolumeResponse, err error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if r.GetCapacityRange() == nil {
		return nil, invalid("capacity_range is missing")
	}
	size, err := sizeFor(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	err = c.store.locked(func() error {
		v, err := c.store.found(r.GetVolumeId())
		if err != nil {
			return err
		}
		v.Capacity = max(v.Capacity, size)
		out = &csi.ControllerExpandVolumeResponse{CapacityBytes: v.Capacity, NodeExpansionRequired: true}
		if v.Block {
			if err := os.Truncate(c.store.path(v.ID, "data"), v.Capacity); err != nil {
				return err
			}
		}
		return c.store.save(v)
	})
	return out, err
}
