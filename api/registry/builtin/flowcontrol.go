package builtin

import (
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"

	"github.com/kontiki/kontiki/api/registry"
)

const flowControlGroup = "flowcontrol.apiserver.k8s.io"

func flowSchemas() *registry.Resource {
	return follow(&registry.Resource{Group: flowControlGroup, Kind: "FlowSchema", Resource: "flowschemas"}, flowschema.Strategy, flowschema.StatusStrategy)
}

func priorityLevelConfigurations() *registry.Resource {
	return follow(&registry.Resource{
		Group: flowControlGroup, Kind: "PriorityLevelConfiguration", Resource: "prioritylevelconfigurations",
	}, prioritylevelconfiguration.Strategy, prioritylevelconfiguration.StatusStrategy)
}
