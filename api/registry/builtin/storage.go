package builtin

import (
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
	"k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration"

	"github.com/kontiki/kontiki/api/registry"
)

const storageGroup = "storage.k8s.io"

func storageClasses() *registry.Resource {
	return follow(&registry.Resource{
		Group: storageGroup, Kind: "StorageClass", Resource: "storageclasses", ShortNames: []string{"sc"}, ReturnDeleted: true,
	}, storageclass.Strategy, nil)
}

func volumeAttachments() *registry.Resource {
	return follow(&registry.Resource{
		Group: storageGroup, Kind: "VolumeAttachment", Resource: "volumeattachments", ReturnDeleted: true, KeepDeleted: never,
	}, volumeattachment.Strategy, volumeattachment.StatusStrategy)
}

func volumeAttributesClasses() *registry.Resource {
	return follow(&registry.Resource{
		Group: storageGroup, Kind: "VolumeAttributesClass", Resource: "volumeattributesclasses", ShortNames: []string{"vac"}, ReturnDeleted: true,
	}, volumeattributesclass.Strategy, nil)
}

func csiDrivers() *registry.Resource {
	return follow(&registry.Resource{Group: storageGroup, Kind: "CSIDriver", Resource: "csidrivers", ReturnDeleted: true}, csidriver.Strategy, nil)
}

func csiNodes() *registry.Resource {
	return follow(&registry.Resource{Group: storageGroup, Kind: "CSINode", Resource: "csinodes", ReturnDeleted: true, KeepDeleted: never}, csinode.Strategy, nil)
}

func csiStorageCapacities() *registry.Resource {
	return follow(&registry.Resource{Group: storageGroup, Kind: "CSIStorageCapacity", Resource: "csistoragecapacities", KeepDeleted: never}, csistoragecapacity.Strategy, nil)
}

func storageVersionMigrations() *registry.Resource {
	return follow(&registry.Resource{
		Group: "storagemigration.k8s.io", Kind: "StorageVersionMigration", Resource: "storageversionmigrations",
	}, storagemigration.Strategy, storagemigration.StatusStrategy)
}
