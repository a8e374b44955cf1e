package registry

import (
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/devicetaintrule"
)

const resourceGroup = "resource.k8s.io"

func deviceClasses() *Resource {
	return follow(&Resource{Group: resourceGroup, Kind: "DeviceClass", Resource: "deviceclasses", ReturnDeleted: true}, deviceclass.Strategy, nil)
}

func deviceTaintRules() *Resource {
	return follow(&Resource{
		Group: resourceGroup, Kind: "DeviceTaintRule", Resource: "devicetaintrules", ReturnDeleted: true,
	}, devicetaintrule.Strategy, devicetaintrule.StatusStrategy)
}
