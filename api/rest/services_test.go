package rest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/test/harness"
)

func serviceOf(name string, kind corev1.ServiceType) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Port: 80}}}}
	if kind == corev1.ServiceTypeExternalName {
		s.Spec.ExternalName = "x.example"
	}
	return s
}

// Every type of service can be changed to every other by a patch of the type alone: allocations of the old type are released, those
// of the new type are made.
func TestServicesChangeTheirType(t *testing.T) {
	h := harness.New(t)
	services := h.Clientset().CoreV1().Services("default")
	ctx := context.Background()
	all := []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName}
	for _, from := range all {
		for _, to := range all {
			if from == to {
				continue
			}
			t.Run(fmt.Sprint(from, " to ", to), func(t *testing.T) {
				name := strings.ToLower(string(from) + string(to))
				if _, err := services.Create(ctx, serviceOf(name, from), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				patch := fmt.Sprintf(`{"spec":{"type":%q}}`, to)
				switch corev1.ServiceTypeExternalName {
				case to:
					patch = fmt.Sprintf(`{"spec":{"type":%q,"externalName":"x.example"}}`, to)
				case from:
					patch = fmt.Sprintf(`{"spec":{"type":%q,"externalName":null}}`, to)
				}
				got, err := services.Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
				if err != nil {
					t.Fatal(err)
				}
				onNodes := to == corev1.ServiceTypeNodePort || to == corev1.ServiceTypeLoadBalancer
				if spec := got.Spec; (spec.ClusterIP != "") != (to != corev1.ServiceTypeExternalName) || (spec.Ports[0].NodePort != 0) != onNodes ||
					(spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyCluster) != onNodes {
					t.Errorf("%+v", spec)
				}
			})
		}
	}
}

// A load balancer with externalTrafficPolicy: Local has a port for health checks, as long as it has the policy.
func TestHealthCheckPorts(t *testing.T) {
	h := harness.New(t)
	services := h.Clientset().CoreV1().Services("default")
	ctx := context.Background()
	local := func(name string) *corev1.Service {
		s := serviceOf(name, corev1.ServiceTypeLoadBalancer)
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		return s
	}
	made, err := services.Create(ctx, local("chosen"), metav1.CreateOptions{})
	if err != nil || made.Spec.HealthCheckNodePort < 30000 || made.Spec.HealthCheckNodePort == made.Spec.Ports[0].NodePort {
		t.Fatalf("%+v, %v", made, err)
	}
	dry, err := services.Create(ctx, local("dry"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || dry.Spec.HealthCheckNodePort == 0 {
		t.Errorf("a dry run: %+v, %v", dry, err)
	}
	given := local("given")
	given.Spec.HealthCheckNodePort = 31902
	if _, err := services.Create(ctx, given, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	again := local("again")
	again.Spec.HealthCheckNodePort = 31902
	if _, err := services.Create(ctx, again, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "provided port is already allocated") {
		t.Errorf("a port that another has: %v", err)
	}
	replaced := local("given")
	replaced.Spec.Ports[0].Port = 81
	before, err := services.Get(ctx, "given", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := services.Update(ctx, replaced, metav1.UpdateOptions{})
	if err != nil || got.Spec.HealthCheckNodePort != 31902 || got.Spec.Ports[0].NodePort != before.Spec.Ports[0].NodePort {
		t.Fatalf("a replaced service keeps its ports: %+v, %v", got, err)
	}
	got, err = services.Patch(ctx, "given", types.MergePatchType, []byte(`{"spec":{"externalTrafficPolicy":"Cluster"}}`), metav1.PatchOptions{})
	if err != nil || got.Spec.HealthCheckNodePort != 0 {
		t.Errorf("to Cluster: %+v, %v", got, err)
	}
	if _, err := services.Create(ctx, again, metav1.CreateOptions{}); err != nil {
		t.Errorf("the port is free again: %v", err)
	}
	got, err = services.Patch(ctx, "given", types.MergePatchType, []byte(`{"spec":{"externalTrafficPolicy":"Local"}}`), metav1.PatchOptions{})
	if err != nil || got.Spec.HealthCheckNodePort == 0 {
		t.Errorf("to Local: %+v, %v", got, err)
	}
	got, err = services.Patch(ctx, "chosen", types.MergePatchType, []byte(`{"spec":{"type":"ClusterIP"}}`), metav1.PatchOptions{})
	if err != nil || got.Spec.HealthCheckNodePort != 0 || got.Spec.Ports[0].NodePort != 0 || got.Spec.ExternalTrafficPolicy != "" {
		t.Errorf("to ClusterIP: %+v, %v", got, err)
	}
	no := false
	without := serviceOf("without", corev1.ServiceTypeLoadBalancer)
	without.Spec.AllocateLoadBalancerNodePorts = &no
	without.Spec.Ports[0].NodePort = 31950
	if _, err := services.Create(ctx, without, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err = services.Patch(ctx, "without", types.MergePatchType, []byte(`{"spec":{"type":"ClusterIP"}}`), metav1.PatchOptions{})
	if err != nil || got.Spec.Ports[0].NodePort != 0 {
		t.Errorf("one whose node port was chosen by hand, to ClusterIP: %+v, %v", got, err)
	}
}
