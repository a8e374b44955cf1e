package registry

import (
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
)

const flowControlGroup = "flowcontrol.apiserver.k8s.io"

func flowSchemas() *Resource {
	return follow(&Resource{Group: flowControlGroup, Kind: "FlowSchema", Resource: "flowschemas"}, flowschema.Strategy, flowschema.StatusStrategy)
}

func priorityLevelConfigurations() *Resource {
	return follow(&Resource{
		Group: flowControlGroup, Kind: "PriorityLevelConfiguration", Resource: "prioritylevelconfigurations",
	}, prioritylevelconfiguration.Strategy, prioritylevelconfiguration.StatusStrategy)
}
