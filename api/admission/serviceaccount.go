package admission

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

const (
	defaultServiceAccount = "default"
	// apiAccessPath is where all client libraries look for their credentials.
	apiAccessPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// apiTokenSeconds is a token's lifetime: slightly more than an hour, so that tokens renewed at 80 % never expire.
	apiTokenSeconds = 60*60 + 7
	// accountWait is how long a pod's creation waits for its service account: those of a new namespace are created moments after
	// the namespace.
	accountWait = time.Second
)

// ServiceAccounts sets the service account of pods, and adds its image pull secrets and a projected volume with a token, the
// cluster's CA and the namespace, as upstream's ServiceAccount plugin does.
type ServiceAccounts struct {
	Store objects.Store
	// Decode and Catalog give access to stored service accounts. They are set after the service has been created, as that needs its
	// plugins.
	Decode  func(*registry.Kind, *kv.Version) (registry.Object, error)
	Catalog *registry.Catalog
}

// Mutate implements objects.Admitter.
func (s *ServiceAccounts) Mutate(ctx context.Context, a *objects.Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || a.Operation != objects.OpCreate || a.Subresource != "" {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := s.account(ctx, a, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, account.ImagePullSecrets...)
	}
	if automount(pod, account) {
		mountToken(pod)
	}
	return nil
}

// Validate implements objects.Admitter.
func (s *ServiceAccounts) Validate(context.Context, *objects.Attributes) error { return nil }

// account looks up a service account, and waits a moment for one that is about to be created.
func (s *ServiceAccounts) account(ctx context.Context, a *objects.Attributes, name string) (*corev1.ServiceAccount, error) {
	kind, _ := s.Catalog.Table().ByGroupResource("", "serviceaccounts")
	key := kind.Key(a.Namespace, name)
	v, ok := a.View.Get(key)
	if !ok {
		var err error
		if v, err = s.await(ctx, key, a.View.Revision()); err != nil {
			return nil, apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf(
				"error looking up service account %s/%s: serviceaccount %q not found", a.Namespace, name, name))
		}
	}
	obj, err := s.Decode(kind, v)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj.(*corev1.ServiceAccount), nil
}

func (s *ServiceAccounts) await(ctx context.Context, key string, after uint64) (*kv.Version, error) {
	ctx, cancel := context.WithTimeout(ctx, accountWait)
	defer cancel()
	watcher, err := s.Store.Watch(key, after)
	if err != nil {
		return nil, err
	}
	defer watcher.Close()
	for {
		events, _, err := watcher.Next(ctx)
		if err != nil {
			return nil, err
		}
		for _, event := range events {
			if event.Type == kv.Put && event.Current.Key == key {
				return event.Current, nil
			}
		}
	}
}

func automount(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken
}

// mountToken adds the kube-api-access volume, and mounts it in every container that has no mount at its path.
func mountToken(pod *corev1.Pod) {
	name := "kube-api-access-" + rand.String(5)
	mount := corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: apiAccessPath}
	used := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if !mountedAt(list[i].VolumeMounts, apiAccessPath) {
				list[i].VolumeMounts = append(list[i].VolumeMounts, mount)
				used = true
			}
		}
	}
	if !used {
		return
	}
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, int64(apiTokenSeconds)
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}})
}

func mountedAt(mounts []corev1.VolumeMount, path string) bool {
	for _, mount := range mounts {
		if mount.MountPath == path {
			return true
		}
	}
	return false
}
