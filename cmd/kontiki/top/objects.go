package top

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/describe"
	"sigs.k8s.io/yaml"
)

// objectYAML returns an object as YAML, without its managed fields.
func objectYAML(ctx context.Context, client rest.Interface, kind Kind, r *Row) (string, error) {
	path, err := kind.path(r.Namespace, r.Name)
	if err != nil {
		return "", err
	}
	var object map[string]any
	if err := fetchJSON(ctx, client.Get().AbsPath(path).SetHeader("Accept", "application/json"), textBytes, &object); err != nil {
		return "", err
	}
	if metadata, ok := object["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
	}
	text, err := yaml.Marshal(object)
	return string(text), err
}

// description returns what kubectl describe says of an object. A panic on an object that is not as describe expects is an error.
func description(config *rest.Config, kind Kind, r *Row) (text string, err error) {
	if _, err := kind.path(r.Namespace, r.Name); err != nil {
		return "", err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("describe: %v", p)
		}
	}()
	gvk := kind.GroupVersion().WithKind(kind.Kind)
	describer, ok := describe.DescriberFor(gvk.GroupKind(), config)
	if !ok {
		scope := meta.RESTScopeRoot
		if kind.Namespaced {
			scope = meta.RESTScopeNamespace
		}
		if describer, ok = describe.GenericDescriberFor(&meta.RESTMapping{Resource: kind.GroupVersionResource, GroupVersionKind: gvk, Scope: scope}, config); !ok {
			return "", fmt.Errorf("%s cannot be described", kind.Title())
		}
	}
	return describer.Describe(r.Namespace, r.Name, describe.DescriberSettings{ShowEvents: true, ChunkSize: pageRows})
}

// remove deletes the object that was confirmed, and not another one that has its name by now. What belongs to it is deleted after it.
func remove(ctx context.Context, client rest.Interface, kind Kind, r *Row) error {
	path, err := kind.path(r.Namespace, r.Name)
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, PropagationPolicy: &background}
	if uid := types.UID(r.UID); uid != "" {
		options.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	body, err := json.Marshal(options)
	if err != nil {
		return err
	}
	return client.Delete().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
}

// selecting are the kinds that select pods, by group.
var selecting = map[string][]string{
	"": {"replicationcontrollers", "services"}, "apps": {"deployments", "replicasets", "statefulsets", "daemonsets"},
	"batch": {"jobs"}, "policy": {"poddisruptionbudgets"},
}

func (k Kind) selectsPods() bool { return slices.Contains(selecting[k.Group], k.Resource) }

// selectorOf returns the label selector of an object that selects pods.
func selectorOf(ctx context.Context, client rest.Interface, kind Kind, r *Row) (string, error) {
	path, err := kind.path(r.Namespace, r.Name)
	if err != nil {
		return "", err
	}
	var object struct {
		Spec struct{ Selector json.RawMessage }
	}
	if err := fetchJSON(ctx, client.Get().AbsPath(path).SetHeader("Accept", "application/json"), textBytes, &object); err != nil {
		return "", err
	}
	var selector labels.Selector
	if raw := object.Spec.Selector; kind.Group == "" {
		var set map[string]string
		if len(raw) > 0 {
			err = json.Unmarshal(raw, &set)
		}
		selector = labels.SelectorFromSet(set)
	} else {
		var s *metav1.LabelSelector
		if len(bytes.TrimSpace(raw)) > 0 {
			err = json.Unmarshal(raw, &s)
		}
		if err == nil {
			selector, err = metav1.LabelSelectorAsSelector(s)
		}
	}
	if err != nil {
		return "", fmt.Errorf("the selector of %s: %w", clean(r.Name, cellBytes), err)
	}
	if selector.Empty() || selector.String() == "" {
		return "", fmt.Errorf("%s selects no pods", clean(r.Name, cellBytes))
	}
	return selector.String(), nil
}
