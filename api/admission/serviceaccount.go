package admission

import (
	"context"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/objects"
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

// serviceAccount sets the service account of new pods, and adds its image pull secrets and a projected volume with a token, the
// cluster's CA and the namespace.
func serviceAccount() objects.Step {
	return objects.Step{
		Name:    "ServiceAccount",
		Handles: handles(pods, objects.OpCreate),
		Mutate: func(ctx context.Context, a *objects.Attributes) error {
			pod := a.Object.(*corev1.Pod)
			if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
				return nil
			}
			if pod.Spec.ServiceAccountName == "" {
				pod.Spec.ServiceAccountName = defaultServiceAccount
			}
			pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
			account, err := accountOf(ctx, a, pod.Spec.ServiceAccountName)
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
		},
	}
}

// accountOf looks up a service account, and waits a moment for one that is about to be created.
func accountOf(ctx context.Context, a *objects.Attributes, name string) (*corev1.ServiceAccount, error) {
	account, ok, err := objects.AwaitStored[*corev1.ServiceAccount](ctx, a, a.Namespace, name, accountWait)
	if err == nil && !ok {
		err = a.Forbid("error looking up service account %s/%s: serviceaccount %q not found", a.Namespace, name, name)
	}
	return account, err
}

func automount(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken
}

// mountToken adds the kube-api-access volume, and mounts it in every container that has no mount at its path. A pod may have the volume
// already: when the step is called again because a webhook has added containers.
func mountToken(pod *corev1.Pod) {
	const prefix = "kube-api-access-"
	name := prefix + suffix(pod)
	has := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return strings.HasPrefix(v.Name, prefix) })
	if has >= 0 {
		name = pod.Spec.Volumes[has].Name
	}
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
	if !used || has >= 0 {
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

// suffix returns five characters that are random as the pod's UID is: the same whenever the same creation is prepared again.
func suffix(pod *corev1.Pod) string {
	hash := fnv.New64a()
	hash.Write([]byte(pod.UID))
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	out := make([]byte, 5)
	for i, n := 0, hash.Sum64(); i < len(out); i, n = i+1, n/uint64(len(letters)) {
		out[i] = letters[n%uint64(len(letters))]
	}
	return string(out)
}

func mountedAt(mounts []corev1.VolumeMount, path string) bool {
	for _, mount := range mounts {
		if mount.MountPath == path {
			return true
		}
	}
	return false
}
