package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

// newest returns the name of the newest of the classes that are marked as the default, "" if none is.
func newest[T registry.Object](a *objects.Attributes, isDefault func(T) bool) (name string, err error) {
	var found registry.Object
	err = objects.EachStored(a, "", func(class T) bool { // in order of names
		if isDefault(class) && (found == nil || class.GetCreationTimestamp().After(found.GetCreationTimestamp().Time)) {
			found = class
		}
		return true
	})
	if found != nil {
		name = found.GetName()
	}
	return name, err
}

// defaultStorageClass gives a new claim without a class the default one.
func defaultStorageClass() objects.Step {
	return objects.Step{
		Name:    "DefaultStorageClass",
		Handles: handles(claims, objects.OpCreate),
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			claim := a.Object.(*corev1.PersistentVolumeClaim)
			if _, annotated := claim.Annotations[corev1.BetaStorageClassAnnotation]; annotated || claim.Spec.StorageClassName != nil {
				return nil
			}
			name, err := newest(a, func(class *storagev1.StorageClass) bool {
				return class.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
					class.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
			})
			if name != "" {
				claim.Spec.StorageClassName = &name
			}
			return err
		},
	}
}

// ingressClassAnnotation named an Ingress's class before there was a field for it.
const ingressClassAnnotation = "kubernetes.io/ingress.class"

// defaultIngressClass gives a new Ingress without a class the default one.
func defaultIngressClass() objects.Step {
	return objects.Step{
		Name:    "DefaultIngressClass",
		Handles: handles(networkingv1.Resource("ingresses"), objects.OpCreate),
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			ingress := a.Object.(*networkingv1.Ingress)
			if _, annotated := ingress.Annotations[ingressClassAnnotation]; annotated || ingress.Spec.IngressClassName != nil {
				return nil
			}
			name, err := newest(a, func(class *networkingv1.IngressClass) bool {
				return class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
			})
			if name != "" {
				ingress.Spec.IngressClassName = &name
			}
			return err
		},
	}
}
