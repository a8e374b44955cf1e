// Package followed says which ConfigMaps and Secrets a workload follows: those whose changes roll it out, and whose earlier content a
// roll-back restores (controller/configrollout). Admission needs it too, to check who may have them restored.
package followed

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Annotations of workloads and of their pod templates.
const (
	// Annotation lists what a workload follows, as in "configmap/app, secret/db", or is "*" for all that its template refers to.
	Annotation = "kontiki.io/rollout-on-change"
	// TemplateAnnotation is the id of the configuration with which a template's pods start.
	TemplateAnnotation = "kontiki.io/config"
)

// Reference is a ConfigMap or Secret that a workload follows.
type Reference struct {
	Kind string // ConfigMap or Secret
	Name string
	// Optional says that pods start without it.
	Optional bool
}

// String returns KIND/NAME.
func (r Reference) String() string { return r.Kind + "/" + r.Name }

// The kinds of references.
const ConfigMap, Secret = "configmap", "secret"

// References returns what a workload follows, in order: what its annotation lists or, for "*", all that its template refers to.
func References(obj metav1.Object, template *corev1.PodTemplateSpec) []Reference {
	value := obj.GetAnnotations()[Annotation]
	if value == "" {
		return nil
	}
	all := map[string]Reference{}
	referred(&template.Spec, func(r Reference) {
		if had, ok := all[r.String()]; ok {
			r.Optional = r.Optional && had.Optional
		}
		all[r.String()] = r
	})
	var out []Reference
	if strings.TrimSpace(value) == "*" {
		for _, r := range all {
			out = append(out, r)
		}
	} else {
		for _, item := range strings.Split(value, ",") {
			kind, name, ok := strings.Cut(strings.TrimSpace(item), "/")
			if kind = strings.ToLower(kind); !ok || name == "" || (kind != ConfigMap && kind != Secret) {
				continue
			}
			r := Reference{Kind: kind, Name: name}
			if known, ok := all[r.String()]; ok {
				r = known
			}
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Reference) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// referred calls visit for the ConfigMaps and Secrets from which pods get environment variables and files.
func referred(spec *corev1.PodSpec, visit func(Reference)) {
	see := func(kind, name string, optional *bool) {
		if name != "" {
			visit(Reference{kind, name, optional != nil && *optional})
		}
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, from := range c.EnvFrom {
			if from.ConfigMapRef != nil {
				see(ConfigMap, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
			}
			if from.SecretRef != nil {
				see(Secret, from.SecretRef.Name, from.SecretRef.Optional)
			}
		}
		for _, env := range c.Env {
			if env.ValueFrom == nil {
				continue
			}
			if ref := env.ValueFrom.ConfigMapKeyRef; ref != nil {
				see(ConfigMap, ref.Name, ref.Optional)
			}
			if ref := env.ValueFrom.SecretKeyRef; ref != nil {
				see(Secret, ref.Name, ref.Optional)
			}
		}
	}
	for _, volume := range spec.Volumes {
		if volume.ConfigMap != nil {
			see(ConfigMap, volume.ConfigMap.Name, volume.ConfigMap.Optional)
		}
		if volume.Secret != nil {
			see(Secret, volume.Secret.SecretName, volume.Secret.Optional)
		}
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ConfigMap != nil {
				see(ConfigMap, source.ConfigMap.Name, source.ConfigMap.Optional)
			}
			if source.Secret != nil {
				see(Secret, source.Secret.Name, source.Secret.Optional)
			}
		}
	}
}
