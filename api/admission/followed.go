package admission

import (
	"context"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/client/followed"
	"github.com/kontiki/kontiki/api/objects"
)

// followedConfiguration lets only those make a workload follow ConfigMaps and Secrets, or change by hand which configuration its pods start
// with, who may update these: a roll-back writes their earlier content. It cannot be disabled.
func followedConfiguration(by auth.Authorizer) objects.Step {
	return objects.Step{
		Name: "FollowedConfiguration",
		Handles: func(a *objects.Attributes) bool {
			return !a.Trusted && a.Subresource == "" && a.Kind.Group == appsv1.GroupName && (a.Operation == objects.OpCreate || a.Operation == objects.OpUpdate)
		},
		Validate: func(ctx context.Context, a *objects.Attributes) error {
			obj, template := workload(a.Object)
			if template == nil {
				return nil
			}
			var before []followed.Reference
			if old, oldTemplate := workload(a.Old); oldTemplate != nil && oldTemplate.Annotations[followed.TemplateAnnotation] == template.Annotations[followed.TemplateAnnotation] {
				before = followed.References(old, oldTemplate)
			}
			for _, ref := range followed.References(obj, template) {
				if slices.ContainsFunc(before, func(r followed.Reference) bool { return r.String() == ref.String() }) {
					continue
				}
				asked := &authorizer.AttributesRecord{User: a.User, Verb: "update", APIVersion: "v1", Resource: ref.Kind + "s", Namespace: a.Namespace, Name: ref.Name, ResourceRequest: true}
				if err := auth.Check(ctx, by, asked); err != nil {
					return a.Forbid("%s: %s is followed, so that a roll-back writes its earlier content: %v", followed.Annotation, ref, err)
				}
			}
			return nil
		},
	}
}

// workload returns a workload that can follow configuration, and its template, which is nil for other objects.
func workload(obj runtime.Object) (metav1.Object, *corev1.PodTemplateSpec) {
	switch w := obj.(type) {
	case *appsv1.Deployment:
		return w, &w.Spec.Template
	case *appsv1.StatefulSet:
		return w, &w.Spec.Template
	case *appsv1.DaemonSet:
		return w, &w.Spec.Template
	}
	return nil, nil
}
