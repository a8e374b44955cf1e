package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

const metricsGroup = "metrics.k8s.io"

// metricsDocument returns a document of a version of metrics.k8s.io, which upstream does not publish: its server is another one. The paths are
// those of reading nodes and pods in the core group, with the names of this group in them.
func metricsDocument(source, version string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(source, "v3", "api__v1_openapi.json"))
	if err != nil {
		return nil, err
	}
	var doc struct {
		OpenAPI    string                                `json:"openapi"`
		Info       json.RawMessage                       `json:"info"`
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components map[string]json.RawMessage            `json:"components"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	prefix := "io.k8s.metrics.pkg.apis.metrics." + version + "."
	rename := strings.NewReplacer(
		"schemas/io.k8s.api.core.v1.NodeList", "schemas/"+prefix+"NodeMetricsList", "schemas/io.k8s.api.core.v1.PodList", "schemas/"+prefix+"PodMetricsList",
		"schemas/io.k8s.api.core.v1.Node", "schemas/"+prefix+"NodeMetrics", "schemas/io.k8s.api.core.v1.Pod", "schemas/"+prefix+"PodMetrics",
		`"core_v1"`, `"metrics_`+version+`"`, "CoreV1", "Metrics"+strings.ToUpper(version[:1])+version[1:],
		`"group":"","kind":"Node","version":"v1"`, `"group":"`+metricsGroup+`","kind":"NodeMetrics","version":"`+version+`"`,
		`"group":"","kind":"Pod","version":"v1"`, `"group":"`+metricsGroup+`","kind":"PodMetrics","version":"`+version+`"`,
		"of kind Node", "of kind NodeMetrics", "of kind Pod", "of kind PodMetrics", "specified Node", "specified NodeMetrics", "specified Pod", "specified PodMetrics",
	)
	paths := map[string]map[string]json.RawMessage{}
	for _, path := range []string{"/api/v1/nodes", "/api/v1/nodes/{name}", "/api/v1/pods", "/api/v1/namespaces/{namespace}/pods", "/api/v1/namespaces/{namespace}/pods/{name}"} {
		renamed := map[string]json.RawMessage{}
		for _, part := range []string{"get", "parameters"} {
			if doc.Paths[path][part] == nil {
				continue
			}
			var value any
			if err := json.Unmarshal(doc.Paths[path][part], &value); err != nil {
				return nil, err
			}
			compact, err := json.Marshal(value) // with the fields in alphabetic order, as the replacements have them
			if err != nil {
				return nil, err
			}
			renamed[part] = json.RawMessage(rename.Replace(string(compact)))
		}
		paths[strings.Replace(path, "/api/v1/", "/apis/"+metricsGroup+"/"+version+"/", 1)] = renamed
	}
	doc.Paths = paths
	var schemas map[string]any
	if err := json.Unmarshal(doc.Components["schemas"], &schemas); err != nil {
		return nil, err
	}
	addMetricsSchemas(schemas, prefix, version)
	if doc.Components["schemas"], err = json.Marshal(schemas); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

// addMetricsSchemas adds the schemas of the group's types.
func addMetricsSchemas(schemas map[string]any, prefix, version string) {
	type object = map[string]any
	ref := func(name string) object {
		return object{"allOf": []any{object{"$ref": "#/components/schemas/" + name}}}
	}
	described := func(schema object, text string) object {
		schema["description"] = text
		return schema
	}
	const meta = "io.k8s.apimachinery.pkg.apis.meta.v1."
	schemas[meta+"Duration"] = object{"type": "string", "description": "Duration is a wrapper around time.Duration which supports correct marshaling to YAML and JSON. In particular, it marshals into strings, which can be used as map keys in json."}
	usage := described(object{"type": "object", "additionalProperties": ref("io.k8s.apimachinery.pkg.api.resource.Quantity")}, "The memory usage is the memory working set.")
	typed := func(kind, text string, properties object, required ...string) object {
		properties["apiVersion"] = described(object{"type": "string"}, "APIVersion defines the versioned schema of this representation of an object.")
		properties["kind"] = described(object{"type": "string"}, "Kind is a string value representing the REST resource this object represents.")
		return object{"type": "object", "description": text, "properties": properties, "required": required,
			"x-kubernetes-group-version-kind": []any{object{"group": metricsGroup, "kind": kind, "version": version}}}
	}
	sampled := func() object {
		return object{
			"metadata":  ref(meta + "ObjectMeta"),
			"timestamp": described(ref(meta+"Time"), "The following fields define time interval from which metrics were collected from the interval [Timestamp-Window, Timestamp]."),
			"window":    ref(meta + "Duration"),
		}
	}
	node := sampled()
	node["usage"] = usage
	schemas[prefix+"NodeMetrics"] = typed("NodeMetrics", "NodeMetrics sets resource usage metrics of a node.", node, "timestamp", "window", "usage")
	pod := sampled()
	pod["containers"] = described(object{"type": "array", "items": ref(prefix + "ContainerMetrics"), "x-kubernetes-list-type": "atomic"}, "Metrics for all containers are collected within the same time window.")
	schemas[prefix+"PodMetrics"] = typed("PodMetrics", "PodMetrics sets resource usage metrics of a pod.", pod, "timestamp", "window", "containers")
	schemas[prefix+"ContainerMetrics"] = object{"type": "object", "description": "ContainerMetrics sets resource usage metrics of a container.", "required": []string{"name", "usage"},
		"properties": object{"name": described(object{"type": "string"}, "Container name corresponding to the one from pod.spec.containers."), "usage": usage}}
	for _, kind := range []string{"NodeMetrics", "PodMetrics"} {
		schemas[prefix+kind+"List"] = typed(kind+"List", kind+"List is a list of "+kind+".", object{
			"metadata": ref(meta + "ListMeta"), "items": described(object{"type": "array", "items": ref(prefix + kind)}, "List of metrics."),
		}, "items")
	}
}
