package admission_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

// grantRules creates a ClusterRole for a user, and returns the user's client.
func grantRules(t *testing.T, h *harness.Harness, name string, rules ...rbacv1.PolicyRule) *kubernetes.Clientset {
	t.Helper()
	if _, err := client.Create(t.Context(), h.Client, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(t.Context(), h.Client, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}}}); err != nil {
		t.Fatal(err)
	}
	set, err := kubernetes.NewForConfig(h.Config(name))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestAdministrativeAccessNeedsALabelledNamespace: claims and templates for it are refused elsewhere, also for administrators.
func TestAdministrativeAccessNeedsALabelledNamespace(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	set, err := kubernetes.NewForConfig(h.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	spec := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r",
		Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c", AdminAccess: &yes}}}}}
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: spec}
	template := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: spec}}
	create := func() []error {
		_, err := set.ResourceV1().ResourceClaims("default").Create(ctx, claim, metav1.CreateOptions{})
		_, templateErr := set.ResourceV1().ResourceClaimTemplates("default").Create(ctx, template, metav1.CreateOptions{})
		return []error{err, templateErr}
	}
	for _, err := range create() {
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace") {
			t.Errorf("without the label: %v", err)
		}
	}
	if _, err := set.CoreV1().Namespaces().Patch(ctx, "default", types.MergePatchType, []byte(`{"metadata":{"labels":{"resource.kubernetes.io/admin-access":"true"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, err := range create() {
		if err != nil {
			t.Errorf("with the label: %v", err)
		}
	}
}

// TestPartsOfAClaimsStatusNeedVerbsOfTheirOwn: allocation and device status, each for those who may.
func TestPartsOfAClaimsStatusNeedVerbsOfTheirOwn(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	group := []string{resourcev1.GroupName}
	status := rbacv1.PolicyRule{Verbs: []string{"get", "update", "patch"}, APIGroups: group, Resources: []string{"resourceclaims", "resourceclaims/status"}}
	plain := grantRules(t, h, "plain", status)
	binder := grantRules(t, h, "binder", status, rbacv1.PolicyRule{Verbs: []string{"update"}, APIGroups: group, Resources: []string{"resourceclaims/binding"}})
	driver := grantRules(t, h, "driver", status, rbacv1.PolicyRule{Verbs: []string{"arbitrary-node:patch"}, APIGroups: group, Resources: []string{"resourceclaims/driver"}, ResourceNames: []string{"d.io"}})
	if _, err := client.Create(ctx, h.Client, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r",
			Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c"}}}}}}); err != nil {
		t.Fatal(err)
	}
	allocate := func(set *kubernetes.Clientset) error {
		claim, err := set.ResourceV1().ResourceClaims("default").Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "r", Driver: "d.io", Pool: "p", Device: "one"}, {Request: "r", Driver: "e.io", Pool: "p", Device: "two"}}}}
		_, err = set.ResourceV1().ResourceClaims("default").UpdateStatus(ctx, claim, metav1.UpdateOptions{})
		return err
	}
	refused := func(what string, err error, text string) {
		t.Helper()
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("an allocation without the verb", allocate(plain), `status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission: `)
	if err := allocate(binder); err != nil {
		t.Error("an allocation:", err)
	}
	report := func(set *kubernetes.Clientset, driver, device string) error {
		_, err := set.ResourceV1().ResourceClaims("default").Patch(ctx, "a", types.MergePatchType,
			[]byte(`{"status":{"devices":[{"driver":"`+driver+`","pool":"p","device":"`+device+`"}]}}`), metav1.PatchOptions{}, "status")
		return err
	}
	refused("a device's status by a scheduler", report(binder, "d.io", "one"), `changing status.devices requires resource="resourceclaims/driver", verb="[arbitrary-node:patch]" permission: `)
	refused("a device's status by another driver", report(driver, "e.io", "two"), `status.devices: Forbidden`)
	if err := report(driver, "d.io", "one"); err != nil {
		t.Error("a device's status:", err)
	}
	// No part of it changes: no further verb is needed.
	if err := report(plain, "d.io", "one"); err != nil {
		t.Error("nothing changes:", err)
	}
}

// TestTheAssociatedNodesVerb: a driver whose token is bound to the node of the allocation needs only the verb for its own node.
func TestTheAssociatedNodesVerb(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	const name = "system:serviceaccount:default:driver"
	group := []string{resourcev1.GroupName}
	grantRules(t, h, name, rbacv1.PolicyRule{Verbs: []string{"update"}, APIGroups: group, Resources: []string{"resourceclaims/status"}},
		rbacv1.PolicyRule{Verbs: []string{"associated-node:update"}, APIGroups: group, Resources: []string{"resourceclaims/driver"}})
	claim, err := client.Create(ctx, h.Client, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r",
			Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	claim = claim.DeepCopy()
	claim.Status.Allocation = &resourcev1.AllocationResult{
		NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"node-1"}}}}}},
		Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r", Driver: "d.io", Pool: "p", Device: "one"}}},
	}
	if claim, err = client.UpdateStatus(ctx, h.Client, claim); err != nil {
		t.Fatal(err)
	}
	// The refused one comes first: once the devices are reported, the same report changes nothing and needs no verb.
	for _, c := range []struct {
		node    string
		allowed bool
	}{{"node-2", false}, {"node-1", true}} {
		config := h.Config("admin", "system:masters")
		config.Impersonate.UserName, config.Impersonate.Extra = name, map[string][]string{"authentication.kubernetes.io/node-name": {c.node}}
		set, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		changed := claim.DeepCopy()
		changed.ResourceVersion = ""
		changed.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d.io", Pool: "p", Device: "one"}}
		if _, err := set.ResourceV1().ResourceClaims("default").UpdateStatus(ctx, changed, metav1.UpdateOptions{}); (err == nil) != c.allowed {
			t.Errorf("%s: %v", c.node, err)
		}
	}
}
