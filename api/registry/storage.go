package registry

import (
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
	"k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration"
)

const storageGroup = "storage.k8s.io"

func storageClasses() *Resource {
	return follow(&Resource{
		Group: storageGroup, Kind: "StorageClass", Resource: "storageclasses", ShortNames: []string{"sc"}, ReturnDeleted: true,
	}, storageclass.Strategy, nil)
}

func volumeAttachments() *Resource {
	return follow(&Resource{
		Group: storageGroup, Kind: "VolumeAttachment", Resource: "volumeattachments", ReturnDeleted: true,
	}, volumeattachment.Strategy, volumeattachment.StatusStrategy)
}

func volumeAttributesClasses() *Resource {
	return follow(&Resource{
		Group: storageGroup, Kind: "VolumeAttributesClass", Resource: "volumeattributesclasses", ShortNames: []string{"vac"}, ReturnDeleted: true,
	}, volumeattributesclass.Strategy, nil)
}

func csiDrivers() *Resource {
	return follow(&Resource{Group: storageGroup, Kind: "CSIDriver", Resource: "csidrivers", ReturnDeleted: true}, csidriver.Strategy, nil)
}

func csiNodes() *Resource {
	return follow(&Resource{Group: storageGroup, Kind: "CSINode", Resource: "csinodes", ReturnDeleted: true}, csinode.Strategy, nil)
}

func csiStorageCapacities() *Resource {
	return follow(&Resource{Group: storageGroup, Kind: "CSIStorageCapacity", Resource: "csistoragecapacities"}, csistoragecapacity.Strategy, nil)
}

func storageVersionMigrations() *Resource {
	return follow(&Resource{
		Group: "storagemigration.k8s.io", Kind: "StorageVersionMigration", Resource: "storageversionmigrations",
	}, storagemigration.Strategy, storagemigration.StatusStrategy)
}
