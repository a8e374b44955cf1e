package wake_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/wake"
)

func TestWhatAServiceWakes(t *testing.T) {
	tcp := corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}}}
	udp := corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 53, Protocol: corev1.ProtocolUDP}}}
	headless := tcp
	headless.ClusterIP = corev1.ClusterIPNone
	external := corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
	for _, c := range []struct {
		value        string
		spec         corev1.ServiceSpec
		want, reason string
	}{
		{"Deployment/web", tcp, "Deployment/web", ""},
		{"deployment/web", tcp, "Deployment/web", ""},
		{"StatefulSet/db", tcp, "StatefulSet/db", ""},
		{"ReplicationController/old", tcp, "ReplicationController/old", ""},
		{"DaemonSet/web", tcp, "", "want KIND/NAME"},
		{"web", tcp, "", "want KIND/NAME"},
		{"", tcp, "", "want KIND/NAME"},
		{"Deployment/", tcp, "", "invalid"},
		{"Deployment/../web", tcp, "", "invalid"},
		{"Deployment/" + strings.Repeat("a", 300), tcp, "", "invalid"},
		{"Deployment/web", udp, "", "no TCP port"},
		{"Deployment/web", headless, "", "headless"},
		{"Deployment/web", external, "", "ExternalName"},
	} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{wake.Annotation: c.value}}, Spec: c.spec}
		target, ok, err := wake.Of(s)
		if c.want != "" && (err != nil || !ok || target.String() != c.want) {
			t.Errorf("%q: %v, %v, %v; want %s", c.value, target, ok, err, c.want)
		}
		if c.reason != "" && (err == nil || ok || !strings.Contains(err.Error(), c.reason) || len(err.Error()) > 700) {
			t.Errorf("%q: %v, %v; want an error with %q", c.value, ok, err, c.reason)
		}
	}
	if _, ok, err := wake.Of(&corev1.Service{Spec: tcp}); ok || err != nil {
		t.Errorf("without the annotation: %v, %v", ok, err)
	}
}
