package nodes_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// TestMirrorPodsOfTheCallingNode: a worker creates and deletes its own mirror pods, and no other pods.
func TestMirrorPodsOfTheCallingNode(t *testing.T) {
	h, c := serve(t)
	for _, name := range []string{"w1", "w2"} {
		// A session begins before its node is registered; the worker is told of its node once it is.
		w := connect(t, c, name)
		w.until("its own node", w.has("nodes//"+name))
	}
	as := func(node string) context.Context {
		return metadata.AppendToOutgoingContext(context.Background(), "node", node)
	}
	w1, ok := client.Get[*corev1.Node](h.Client.View(), "", "w1")
	if !ok {
		t.Fatal("the node w1 does not exist")
	}
	controller := true
	mirror := func(change func(*corev1.Pod)) *nodev1.CreateMirrorPodRequest {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a-w1", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "hash"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "w1", UID: w1.UID, Controller: &controller}}},
			Spec: corev1.PodSpec{NodeName: "w1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if change != nil {
			change(pod)
		}
		return &nodev1.CreateMirrorPodRequest{Pod: encode(t, pod)}
	}
	for what, r := range map[string]struct {
		code   codes.Code
		change func(*corev1.Pod)
	}{
		"no mirror pod":     {codes.PermissionDenied, func(p *corev1.Pod) { p.Annotations = nil }},
		"another's name":    {codes.PermissionDenied, func(p *corev1.Pod) { p.Name = "a" }},
		"on another node":   {codes.PermissionDenied, func(p *corev1.Pod) { p.Spec.NodeName = "w2" }},
		"on no node":        {codes.PermissionDenied, func(p *corev1.Pod) { p.Spec.NodeName = "" }},
		"without an owner":  {codes.PermissionDenied, func(p *corev1.Pod) { p.OwnerReferences = nil }},
		"another owner":     {codes.PermissionDenied, func(p *corev1.Pod) { p.OwnerReferences[0].UID = "x" }},
		"a service account": {codes.PermissionDenied, func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" }},
		"a secret": {codes.PermissionDenied, func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		}},
		"no namespace": {codes.PermissionDenied, func(p *corev1.Pod) { p.Namespace = "missing" }},
		"invalid":      {codes.InvalidArgument, func(p *corev1.Pod) { p.Spec.Containers = nil }},
	} {
		if _, err := c.CreateMirrorPod(as("w1"), mirror(r.change)); status.Code(err) != r.code {
			t.Errorf("%s: %v, want %v", what, err, r.code)
		}
	}
	if _, err := c.CreateMirrorPod(context.Background(), mirror(nil)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("without a certificate: %v", err)
	}
	if _, err := c.CreateMirrorPod(as("w1"), &nodev1.CreateMirrorPodRequest{Pod: make([]byte, 1<<20)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("one of a mebibyte: %v", err)
	}
	answer, err := c.CreateMirrorPod(as("w1"), mirror(func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }))
	if err != nil {
		t.Fatal(err)
	}
	stored, ok := client.Get[*corev1.Pod](h.Client.View(), "default", "a-w1")
	if !ok || string(stored.UID) != answer.Uid || stored.Status.Phase != corev1.PodPending || stored.Spec.ServiceAccountName != "" || len(stored.Spec.Volumes) > 0 {
		t.Fatalf("the mirror pod is %+v", stored)
	}
	if _, err := c.CreateMirrorPod(as("w1"), mirror(nil)); status.Code(err) != codes.AlreadyExists {
		t.Errorf("one that exists: %v", err)
	}

	remove := func(node string, pod *corev1.Pod, uid string) error {
		_, err := c.DeleteMirrorPod(as(node), &nodev1.DeleteMirrorPodRequest{Namespace: pod.Namespace, Name: pod.Name, Uid: uid})
		return err
	}
	if err := remove("w2", stored, answer.Uid); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another node deletes it: %v", err)
	}
	normal := create(t, h, podNaming("normal", "s"))
	if err := h.Client.Bind(context.Background(), normal, "w1"); err != nil {
		t.Fatal(err)
	}
	if err := remove("w1", normal, string(normal.UID)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a pod that is no mirror pod is deleted: %v", err)
	}
	if err := remove("w1", stored, "another"); err != nil {
		t.Errorf("one that was replaced: %v", err)
	}
	if _, ok := client.Get[*corev1.Pod](h.Client.View(), "default", "a-w1"); !ok {
		t.Fatal("it was deleted by another UID")
	}
	if err := remove("w1", stored, answer.Uid); err != nil {
		t.Fatal(err)
	}
	if _, ok := client.Get[*corev1.Pod](h.Client.View(), "default", "a-w1"); ok {
		t.Fatal("it is still there")
	}
	if err := remove("w1", stored, answer.Uid); err != nil {
		t.Errorf("one that is gone: %v", err)
	}

	// The limit holds also for calls at the same time.
	var made atomic.Int32
	var calls sync.WaitGroup
	for i := range 300 {
		calls.Go(func() {
			_, err := c.CreateMirrorPod(as("w1"), mirror(func(p *corev1.Pod) { p.Name = fmt.Sprintf("p%d-w1", i) }))
			switch status.Code(err) {
			case codes.OK:
				made.Add(1)
			case codes.ResourceExhausted:
			default:
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if n := made.Load(); n != 256 {
		t.Errorf("%d mirror pods were created", n)
	}
}
