package environ

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B": "$(A)"}
	lookup := func(n string) (string, bool) { v, ok := vars[n]; return v, ok }
	for in, want := range map[string]string{
		"$(A)": "1", "x$(A)y": "x1y", "$$(A)": "$(A)", "$(B)": "$(A)", "$(NONE)": "$(NONE)", "$A": "$A", "$": "$", "$(A": "$(A", "$$$(A)": "$1", "a$$b": "a$b",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestServiceEnvironment(t *testing.T) {
	svc := func(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		s := &corev1.Service{}
		s.Namespace, s.Name, s.Spec.ClusterIP, s.Spec.Ports = ns, name, ip, ports
		return s
	}
	services := []*corev1.Service{
		svc("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"}),
		svc("app", "my-db", "10.96.0.7", corev1.ServicePort{Port: 5432, Protocol: "TCP"}),
		svc("app", "headless", "None", corev1.ServicePort{Port: 1}),
		svc("other", "far", "10.96.0.9", corev1.ServicePort{Port: 1}),
	}
	env := ofServices(services, "app", true)
	for k, want := range map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
		"MY_DB_SERVICE_HOST": "10.96.0.7", "MY_DB_PORT_5432_TCP_PROTO": "tcp", "HEADLESS_SERVICE_HOST": "", "FAR_SERVICE_HOST": "",
	} {
		if env[k] != want {
			t.Errorf("%s = %q, want %q", k, env[k], want)
		}
	}
	if env := ofServices(services, "app", false); env["MY_DB_SERVICE_HOST"] != "" || env["KUBERNETES_SERVICE_HOST"] == "" {
		t.Errorf("without links: %v", env)
	}
}
