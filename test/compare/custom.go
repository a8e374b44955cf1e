package main

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/client-go/kubernetes"
)

// definition is a custom resource as projects have them: a schema of several levels with defaults, bounds and a list with keys, two rules, a status
// and columns.
const definition = `{
"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.compare.example"},
"spec": {"group": "compare.example", "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
"versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
"additionalPrinterColumns": [{"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}, {"name": "Phase", "type": "string", "jsonPath": ".status.phase"}],
"schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
  "spec": {"type": "object", "required": ["image"], "x-kubernetes-validations": [
    {"rule": "self.replicas <= self.maxReplicas", "message": "replicas must not exceed maxReplicas"},
    {"rule": "self.ports.all(p, p.port != 22)", "message": "port 22 is reserved"}],
    "properties": {
      "image": {"type": "string", "minLength": 1, "maxLength": 256},
      "replicas": {"type": "integer", "minimum": 0, "maximum": 1000, "default": 1},
      "maxReplicas": {"type": "integer", "minimum": 0, "maximum": 1000, "default": 10},
      "paused": {"type": "boolean"},
      "ports": {"type": "array", "maxItems": 32, "default": [], "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name", "port"], "properties": {
          "name": {"type": "string", "maxLength": 63}, "port": {"type": "integer", "minimum": 1, "maximum": 65535},
          "protocol": {"type": "string", "enum": ["TCP", "UDP"], "default": "TCP"}}}},
      "env": {"type": "object", "maxProperties": 64, "additionalProperties": {"type": "string", "maxLength": 1024}},
      "resources": {"type": "object", "properties": {
        "cpu": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "memory": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}},
      "template": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
  "status": {"type": "object", "properties": {
    "phase": {"type": "string"}, "readyReplicas": {"type": "integer"},
    "conditions": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
      "items": {"type": "object", "required": ["type", "status"], "properties": {
        "type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"}, "message": {"type": "string"}}}}}}}}}}]}}`

// widget is a custom resource of the definition; %s is its name.
const widget = `{"apiVersion": "compare.example/v1", "kind": "Widget", "metadata": {"name": "%s", "namespace": "compare", "labels": {"app": "widget", "tier": "backend"},
"annotations": {"example.com/owner": "team-a", "example.com/description": "a widget that is made to compare servers"}},
"spec": {"image": "registry.example/team/widget:1.2.3", "replicas": 3, "ports": [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}, {"name": "dns", "port": 53, "protocol": "UDP"}],
"env": {"LOG_LEVEL": "info", "DATABASE_HOST": "db.example.svc", "CACHE": "redis://cache:6379", "REGION": "north"}, "resources": {"cpu": "500m", "memory": "256Mi"},
"template": {"metadata": {"labels": {"app": "widget"}}, "spec": {"nodeSelector": {"kubernetes.io/os": "linux"}, "terminationGracePeriodSeconds": 30}}}}`

// widgets is the target of -workload custom. Custom resources are JSON on both sides.
var widgets = target{
	group: "compare.example", resource: "widgets", path: widgetsPath, size: 800,
	define: func(ctx context.Context, set *kubernetes.Clientset) error {
		return set.Discovery().RESTClient().Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").Body([]byte(definition)).Do(ctx).Error()
	},
	create: func(ctx context.Context, set *kubernetes.Clientset, name string) error {
		return set.Discovery().RESTClient().Post().AbsPath(widgetsPath).Body(fmt.Appendf(nil, widget, name)).Do(ctx).Error()
	},
	get: func(ctx context.Context, set *kubernetes.Clientset, name string) error {
		_, err := readWidget(ctx, set, name)
		return err
	},
	updateStatus: func(ctx context.Context, set *kubernetes.Clientset, name string) error {
		object, err := readWidget(ctx, set, name)
		if err != nil {
			return err
		}
		object["status"] = map[string]any{"phase": "Running", "readyReplicas": 3, "conditions": []any{
			map[string]any{"type": "Ready", "status": "True", "reason": "AllReady", "message": "all replicas are ready"}}}
		body, err := json.Marshal(object)
		if err != nil {
			return err
		}
		return set.Discovery().RESTClient().Put().AbsPath(widgetsPath, name, "status").Body(body).Do(ctx).Error()
	},
	remove: func(ctx context.Context, set *kubernetes.Clientset, name string) error {
		return set.Discovery().RESTClient().Delete().AbsPath(widgetsPath, name).Do(ctx).Error()
	},
}

const widgetsPath = "/apis/compare.example/v1/namespaces/" + namespace + "/widgets"

func readWidget(ctx context.Context, set *kubernetes.Clientset, name string) (object map[string]any, err error) {
	body, err := set.Discovery().RESTClient().Get().AbsPath(widgetsPath, name).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	return object, json.Unmarshal(body, &object)
}
