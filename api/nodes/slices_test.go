package nodes

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

func TestAWorkerRemovesSlicesOfItsOwnNodeOnly(t *testing.T) {
	h := harness.New(t)
	slice := func(name, node, driver string) {
		s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
			Driver: driver, Pool: resourcev1.ResourcePool{Name: name, ResourceSliceCount: 1}}}
		if s.Spec.NodeName = &node; node == "" {
			s.Spec.NodeName, s.Spec.AllNodes = nil, new(true)
		}
		make1(t, h, s)
	}
	slice("mine", "n1", "a.example.com")
	slice("mine-too", "n1", "b.example.com")
	slice("mine-as-well", "n1", "c.example.com")
	slice("others", "n2", "a.example.com")
	slice("all", "", "a.example.com")
	caller := "n1"
	server := New(Config{Client: h.Client, Caller: func(context.Context) (string, bool) { return caller, caller != "" }})
	remove := func(driver string, keep ...string) codes.Code {
		_, err := server.RemoveResourceSlices(t.Context(), &nodev1.RemoveResourceSlicesRequest{Driver: driver, Keep: keep})
		return status.Code(err)
	}
	left := func() []string {
		var out []string
		for _, s := range client.List[*resourcev1.ResourceSlice](h.Client.View(), "", nil) {
			out = append(out, s.Name)
		}
		slices.Sort(out)
		return out
	}
	if code := remove("a.example.com"); code != codes.OK || !slices.Equal(left(), []string{"all", "mine-as-well", "mine-too", "others"}) {
		t.Errorf("one driver: %v, left %v", code, left())
	}
	if code := remove("", "b.example.com"); code != codes.OK || !slices.Equal(left(), []string{"all", "mine-too", "others"}) {
		t.Errorf("all drivers but one: %v, left %v", code, left())
	}
	if code := remove("", make([]string, maxKept+1)...); code != codes.InvalidArgument {
		t.Errorf("too many drivers to keep: %v", code)
	}
	caller = ""
	if code := remove(""); code != codes.PermissionDenied {
		t.Errorf("no worker: %v", code)
	}
}

func TestAWorkerIsSentTheResourceClaimsOfItsPods(t *testing.T) {
	h := harness.New(t)
	for _, name := range []string{"mine", "others"} {
		make1(t, h, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: resourcev1.ResourceClaimSpec{
			Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c"}}}}}})
	}
	pod := func(name, node, claim string) *corev1.Pod {
		return make1(t, h, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: new(int64),
			Containers:     []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "d"}}}}},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "d", ResourceClaimName: &claim}}}})
	}
	pod("p1", "n1", "mine")
	pod("p2", "n2", "others")
	a := assignmentOf(h, "n1")
	if got := (has{}).take(t, a, a.full(h.Client.View())); !slices.Equal(got, []string{"resourceclaims/mine"}) {
		t.Errorf("the worker is sent %v", got)
	}
}
