package admission_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

// A node writes only what is about itself and its pods.
func TestNodeRestriction(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	if _, err := client.Create(ctx, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}}); err != nil {
		t.Fatal(err)
	}
	admin := h.Clientset()
	node, err := kubernetes.NewForConfig(h.Config("system:node:w1", "system:nodes"))
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := func(what, says string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", what, err, says)
		}
	}
	nodeOf := func(name string, labels map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	patch := func(of any) []byte {
		data, err := json.Marshal(of)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	labels := func(key string) []byte {
		return patch(map[string]any{"metadata": map[string]any{"labels": map[string]any{key: "x"}}})
	}

	// Nodes.
	nodes := node.CoreV1().Nodes()
	_, err = nodes.Create(ctx, nodeOf("w2", nil), metav1.CreateOptions{})
	refused("another node", `node "w1" is not allowed to modify node "w2"`, err)
	_, err = nodes.Create(ctx, nodeOf("w1", map[string]string{"example.com.node-restriction.kubernetes.io/a": "b"}), metav1.CreateOptions{})
	refused("restricted labels", `is not allowed to set the following labels: example.com.node-restriction.kubernetes.io/a`, err)
	own, err := nodes.Create(ctx, nodeOf("w1", map[string]string{"kubernetes.io/hostname": "w1", "example.com/a": "b"}), metav1.CreateOptions{})
	allowed("itself", err)
	if _, err := admin.CoreV1().Nodes().Create(ctx, nodeOf("w2", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = nodes.Patch(ctx, "w1", types.MergePatchType, labels("node-role.kubernetes.io/master"), metav1.PatchOptions{})
	refused("Kubernetes' labels", "is not allowed to modify labels: node-role.kubernetes.io/master", err)
	_, err = nodes.Patch(ctx, "w1", types.MergePatchType, labels("example.com/c"), metav1.PatchOptions{})
	allowed("other labels", err)
	_, err = nodes.Patch(ctx, "w1", types.MergePatchType, patch(map[string]any{"spec": map[string]any{"taints": []any{map[string]any{"key": "a", "effect": "NoSchedule"}}}}), metav1.PatchOptions{})
	refused("taints", "is not allowed to modify taints", err)
	_, err = nodes.Patch(ctx, "w2", types.MergePatchType, patch(map[string]any{"status": map[string]any{"phase": "x"}}), metav1.PatchOptions{}, "status")
	refused("another node's status", `is not allowed to modify node "w2"`, err)
	_, err = nodes.Get(ctx, "w2", metav1.GetOptions{})
	refused("reading another node", "only its own Node object", err)

	// Pods.
	podOn := func(name, on string, change func(*corev1.Pod)) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.PodSpec{NodeName: on, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if change != nil {
			change(pod)
		}
		return pod
	}
	yes := true
	mirror := func(pod *corev1.Pod) {
		pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		pod.Spec.AutomountServiceAccountToken = new(bool)
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "w1", UID: own.UID, Controller: &yes}}
	}
	pods := node.CoreV1().Pods("default")
	_, err = pods.Create(ctx, podOn("a", "w1", nil), metav1.CreateOptions{})
	refused("a pod", "can only create mirror pods", err)
	_, err = pods.Create(ctx, podOn("a", "w2", mirror), metav1.CreateOptions{})
	refused("a mirror pod elsewhere", "can only create pods with spec.nodeName set to itself", err)
	_, err = pods.Create(ctx, podOn("a", "w1", func(p *corev1.Pod) { mirror(p); p.OwnerReferences[0].UID = "other" }), metav1.CreateOptions{})
	refused("a mirror pod of another", "UID mismatch", err)
	_, err = pods.Create(ctx, podOn("a", "w1", func(p *corev1.Pod) {
		mirror(p)
		p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
	}), metav1.CreateOptions{})
	refused("a mirror pod with a secret", "can not create pods that reference", err)
	_, err = pods.Create(ctx, podOn("mirror", "w1", mirror), metav1.CreateOptions{})
	allowed("a mirror pod", err)
	for name, on := range map[string]string{"mine": "w1", "theirs": "w2"} {
		if _, err := admin.CoreV1().Pods("default").Create(ctx, podOn(name, on, nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	status := patch(map[string]any{"status": map[string]any{"phase": "Running"}})
	_, err = pods.Patch(ctx, "theirs", types.MergePatchType, status, metav1.PatchOptions{}, "status")
	refused("another node's pod", "can only update pod status for pods with spec.nodeName set to itself", err)
	_, err = pods.Patch(ctx, "mine", types.MergePatchType, status, metav1.PatchOptions{}, "status")
	allowed("its pod's status", err)
	_, err = pods.Patch(ctx, "mine", types.MergePatchType, patch(map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}}), metav1.PatchOptions{}, "status")
	refused("labels by the status", "cannot update labels through pod status", err)
	refused("evicting another node's pod", "can only evict pods with spec.nodeName set to itself", pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}))
	refused("deleting another node's pod", "can only delete pods with spec.nodeName set to itself", pods.Delete(ctx, "theirs", metav1.DeleteOptions{}))

	// Tokens.
	mine, err := admin.CoreV1().Pods("default").Get(ctx, "mine", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := func(ref *authenticationv1.BoundObjectReference, audiences ...string) error {
		_, err := node.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref, Audiences: audiences}}, metav1.CreateOptions{})
		return err
	}
	bound := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "mine", UID: mine.UID}
	refused("a token of no pod", "node requested token not bound to a pod", token(nil))
	refused("a token of a pod without UID", "pod binding without a uid", token(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "mine"}))
	allowed("its pod's token", token(bound))
	refused("a token for an audience that the pod does not ask for", `is not authorized to request tokens for audience "vault"`, token(bound, "vault"))
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "vault"}
	if _, err := client.Create(ctx, h.Client, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "vault"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"request-serviceaccounts-token-audience"}, APIGroups: []string{""}, Resources: []string{"vault"}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(ctx, h.Client, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "vault"}, RoleRef: ref, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "system:nodes"}}}); err != nil {
		t.Fatal(err)
	}
	allowed("a token for an audience that a role allows", token(bound, "vault"))

	// Leases.
	lease := func(namespace, name string) error {
		_, err := node.CoordinationV1().Leases(namespace).Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	}
	refused("another node's lease", "can only access node lease with the same name as the requesting node", lease(corev1.NamespaceNodeLease, "w2"))
	allowed("its lease", lease(corev1.NamespaceNodeLease, "w1"))
}
