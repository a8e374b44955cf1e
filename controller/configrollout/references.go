package configrollout

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
)

// reference is a ConfigMap or Secret that a workload follows.
type reference struct {
	kind string // "configmap" or "secret"
	name string
	// optional says that pods start without it.
	optional bool
}

func (r reference) String() string { return r.kind + "/" + r.name }

const configMap, secret = "configmap", "secret"

// references returns what a workload follows, in order: what its annotation lists or, for "*", all that its template refers to.
func references(obj client.Object, template *corev1.PodTemplateSpec) []reference {
	value := obj.GetAnnotations()[Annotation]
	if value == "" {
		return nil
	}
	all := map[string]reference{}
	referred(&template.Spec, func(r reference) {
		if had, ok := all[r.String()]; ok {
			r.optional = r.optional && had.optional
		}
		all[r.String()] = r
	})
	var out []reference
	if strings.TrimSpace(value) == "*" {
		for _, r := range all {
			out = append(out, r)
		}
	} else {
		for _, item := range strings.Split(value, ",") {
			kind, name, ok := strings.Cut(strings.TrimSpace(item), "/")
			if kind = strings.ToLower(kind); !ok || name == "" || (kind != configMap && kind != secret) {
				continue
			}
			r := reference{kind: kind, name: name}
			if known, ok := all[r.String()]; ok {
				r = known
			}
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b reference) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// referred calls visit for the ConfigMaps and Secrets from which pods get environment variables and files.
func referred(spec *corev1.PodSpec, visit func(reference)) {
	see := func(kind, name string, optional *bool) {
		if name != "" {
			visit(reference{kind, name, optional != nil && *optional})
		}
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, from := range c.EnvFrom {
			if from.ConfigMapRef != nil {
				see(configMap, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
			}
			if from.SecretRef != nil {
				see(secret, from.SecretRef.Name, from.SecretRef.Optional)
			}
		}
		for _, env := range c.Env {
			if env.ValueFrom == nil {
				continue
			}
			if ref := env.ValueFrom.ConfigMapKeyRef; ref != nil {
				see(configMap, ref.Name, ref.Optional)
			}
			if ref := env.ValueFrom.SecretKeyRef; ref != nil {
				see(secret, ref.Name, ref.Optional)
			}
		}
	}
	for _, volume := range spec.Volumes {
		if volume.ConfigMap != nil {
			see(configMap, volume.ConfigMap.Name, volume.ConfigMap.Optional)
		}
		if volume.Secret != nil {
			see(secret, volume.Secret.SecretName, volume.Secret.Optional)
		}
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ConfigMap != nil {
				see(configMap, source.ConfigMap.Name, source.ConfigMap.Optional)
			}
			if source.Secret != nil {
				see(secret, source.Secret.Name, source.Secret.Optional)
			}
		}
	}
}
