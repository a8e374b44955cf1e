package authz_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/auth/authz"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

func podOn(node string, change func(*corev1.PodSpec)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p-" + node}, Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "default",
		AutomountServiceAccountToken: new(bool), Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	change(&pod.Spec)
	return pod
}

func volume(name string, source corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: source}
}

func TestNodesReadWhatTheirPodsUse(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	n := authz.NewNodes()
	n.Client = h.Client
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pod, err := client.Create(ctx, h.Client, podOn("w1", func(s *corev1.PodSpec) {
		s.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
		s.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}
		s.Volumes = []corev1.Volume{
			volume("a", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mounted"}}),
			volume("b", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}),
		}
	}))
	must(pod, err)
	must(client.Create(ctx, h.Client, podOn("w2", func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{volume("a", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "other"}})}
	})))
	must(client.Create(ctx, h.Client, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: "claim"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "v",
			NodePublishSecretRef: &corev1.SecretReference{Namespace: "default", Name: "publish"}, ControllerExpandSecretRef: &corev1.SecretReference{Namespace: "default", Name: "expand"}}}}}))
	must(client.Create(ctx, h.Client, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va"}, Spec: storagev1.VolumeAttachmentSpec{Attacher: "d", NodeName: "w1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &[]string{"pv"}[0]}}}))
	must(client.Create(ctx, h.Client, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice"}, Spec: resourcev1.ResourceSliceSpec{Driver: "d.example.com", NodeName: &[]string{"w1"}[0], Pool: resourcev1.ResourcePool{Name: "w1", ResourceSliceCount: 1}}}))

	type record = authorizer.AttributesRecord
	get := func(group, resource, name string) record {
		return record{Verb: "get", APIGroup: group, Resource: resource, Namespace: "default", Name: name}
	}
	with := func(a record, change func(*record)) record {
		change(&a)
		return a
	}
	selected := func(a record, fields string) record {
		a.Name = ""
		auth.Select(&a, fields, "")
		return a
	}
	for _, c := range []struct {
		name    string
		a       record
		own     bool // w1 may
		another bool // w2 may, too
	}{
		{"a mounted secret", get("", "secrets", "mounted"), true, false},
		{"a secret to pull images with", get("", "secrets", "pull"), true, false},
		{"a secret of another node", get("", "secrets", "other"), false, true},
		{"a secret of nobody", get("", "secrets", "none"), false, false},
		{"a secret in another namespace", with(get("", "secrets", "mounted"), func(a *record) { a.Namespace = "kube-system" }), false, false},
		{"the secret of a volume", get("", "secrets", "publish"), true, false},
		{"a secret of a volume for controllers", get("", "secrets", "expand"), false, false},
		{"watch of a secret", with(get("", "secrets", "mounted"), func(a *record) { a.Verb = "watch" }), true, false},
		{"list of all secrets", with(get("", "secrets", ""), func(a *record) { a.Verb = "list" }), false, false},
		{"an update of a secret", with(get("", "secrets", "mounted"), func(a *record) { a.Verb = "update" }), false, false},
		{"a configmap", get("", "configmaps", "env"), true, false},
		{"a claim", get("", "persistentvolumeclaims", "claim"), true, false},
		{"a claim's status", with(get("", "persistentvolumeclaims", "claim"), func(a *record) { a.Verb, a.Subresource = "patch", "status" }), true, false},
		{"a volume", with(get("", "persistentvolumes", "pv"), func(a *record) { a.Namespace = "" }), true, false},
		{"an attachment", with(get("storage.k8s.io", "volumeattachments", "va"), func(a *record) { a.Namespace = "" }), true, false},
		{"a token", with(get("", "serviceaccounts", "default"), func(a *record) { a.Verb, a.Subresource = "create", "token" }), true, true},
		{"a token of another account", with(get("", "serviceaccounts", "boss"), func(a *record) { a.Verb, a.Subresource = "create", "token" }), false, false},
		{"its pod", get("", "pods", "p-w1"), true, false},
		{"its pods", selected(with(get("", "pods", ""), func(a *record) { a.Verb = "list" }), "spec.nodeName=w1"), true, false},
		{"all pods", with(get("", "pods", ""), func(a *record) { a.Verb = "list" }), false, false},
		{"a pod's log", with(get("", "pods", "p-w1"), func(a *record) { a.Subresource = "log" }), false, false},
		{"an exec", with(get("", "pods", "p-w1"), func(a *record) { a.Verb, a.Subresource = "create", "exec" }), false, false},
		{"a pod's status", with(get("", "pods", "p-w1"), func(a *record) { a.Verb, a.Subresource = "patch", "status" }), true, true},
		{"itself", with(get("", "nodes", "w1"), func(a *record) { a.Namespace = "" }), true, false},
		{"all nodes", with(get("", "nodes", ""), func(a *record) { a.Namespace, a.Verb = "", "list" }), false, false},
		{"its lease", with(get("coordination.k8s.io", "leases", "w1"), func(a *record) { a.Namespace = corev1.NamespaceNodeLease }), true, false},
		{"a lease elsewhere", get("coordination.k8s.io", "leases", "w1"), false, false},
		{"its slice", with(get("resource.k8s.io", "resourceslices", "slice"), func(a *record) { a.Namespace, a.Verb = "", "delete" }), true, false},
		{"its slices", selected(with(get("resource.k8s.io", "resourceslices", ""), func(a *record) { a.Namespace, a.Verb = "", "deletecollection" }), "spec.nodeName=w1"), true, false},
		{"its CSINode", with(get("storage.k8s.io", "csinodes", "w1"), func(a *record) { a.Namespace, a.Verb = "", "update" }), true, false},
		{"services, by the static rules", with(get("", "services", ""), func(a *record) { a.Namespace, a.Verb = "", "list" }), true, true},
		{"deployments", get("apps", "deployments", "d"), false, false},
	} {
		for node, want := range map[string]bool{"w1": c.own, "w2": c.another} {
			a := c.a
			a.ResourceRequest = true
			a.User = &user.DefaultInfo{Name: "system:node:" + node, Groups: []string{user.NodesGroup}}
			got, reason, err := n.Authorize(ctx, &a)
			if (got == authorizer.DecisionAllow) != want || got == authorizer.DecisionDeny || err != nil {
				t.Errorf("%s, for %s: %v (%s) %v", c.name, node, got, reason, err)
			}
			a.User = &user.DefaultInfo{Name: "system:node:" + node} // not in the group
			if got, _, _ := n.Authorize(ctx, &a); got != authorizer.DecisionNoOpinion {
				t.Errorf("%s, for one who is no node: %v", c.name, got)
			}
		}
	}

	// What a pod uses is no longer readable when it is gone.
	if err := h.Client.Delete(ctx, pod, client.Grace(0)); err != nil {
		t.Fatal(err)
	}
	for _, a := range []record{get("", "secrets", "mounted"), get("", "secrets", "publish"), get("", "pods", "p-w1")} {
		a.ResourceRequest, a.User = true, &user.DefaultInfo{Name: "system:node:w1", Groups: []string{user.NodesGroup}}
		if got, _, _ := n.Authorize(ctx, &a); got != authorizer.DecisionNoOpinion {
			t.Errorf("%s %s of a pod that is gone: %v", a.Resource, a.Name, got)
		}
	}
}
