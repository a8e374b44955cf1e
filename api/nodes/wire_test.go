package nodes_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// enveloped is an object in Kubernetes' protobuf format whose message has, in one field, many empty messages.
func enveloped(kind string, field, element protowire.Number, count int) []byte {
	inner := bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, element, protowire.BytesType), nil), count)
	object := protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), inner)
	meta := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "v1")
	meta = protowire.AppendString(protowire.AppendTag(meta, 2, protowire.BytesType), kind)
	out := protowire.AppendBytes(protowire.AppendTag([]byte("k8s\x00"), 1, protowire.BytesType), meta)
	return protowire.AppendBytes(protowire.AppendTag(out, 2, protowire.BytesType), object)
}

// Two bytes for each empty message would be up to a kilobyte each in the master's memory.
func TestManyEmptyMessagesAreRefusedUndecoded(t *testing.T) {
	r := report(t)
	pod := create(t, r.h, podNaming("a", "s"))
	if err := r.h.Client.Bind(context.Background(), pod, "w1"); err != nil {
		t.Fatal(err)
	}
	for what, batch := range map[string]*nodev1.StatusBatch{
		"containers":         {Pods: []*nodev1.PodStatus{{Namespace: "default", Name: "a", Uid: string(pod.UID), Status: enveloped("Pod", 2, 2, 260_000)}}},
		"container statuses": {Pods: []*nodev1.PodStatus{{Namespace: "default", Name: "a", Uid: string(pod.UID), Status: enveloped("Pod", 3, 8, 260_000)}}},
		"images":             {NodeStatus: enveloped("Node", 3, 8, 120_000)},
		"capacity":           {NodeStatus: enveloped("Node", 3, 1, 120_000)},
		"owners of an event": {Events: [][]byte{enveloped("Event", 1, 13, 15_000)}},
	} {
		if problems := r.report(batch); len(problems) != 1 || !strings.Contains(problems[0], "too many parts") {
			t.Errorf("%s: answered %.200q", what, problems)
		}
	}
}

// What a pod reports is not even decoded if the node does not have the pod: such reports can be made up at no cost.
func TestReportsOfPodsElsewhereAreNotDecoded(t *testing.T) {
	r := report(t)
	pod := create(t, r.h, podNaming("a", "s"))
	garbage := []byte("neither protobuf nor JSON")
	for what, status := range map[string]*nodev1.PodStatus{
		"no such pod":  {Namespace: "default", Name: "other", Uid: "u", Status: garbage},
		"another UID":  {Namespace: "default", Name: "a", Uid: "u", Status: garbage},
		"another node": {Namespace: "default", Name: "a", Uid: string(pod.UID), Status: garbage},
	} {
		if problems := r.report(&nodev1.StatusBatch{Pods: []*nodev1.PodStatus{status}}); len(problems) > 0 {
			t.Errorf("%s: answered %q", what, problems)
		}
	}
	if err := r.h.Client.Bind(context.Background(), pod, "w1"); err != nil {
		t.Fatal(err)
	}
	if problems := r.report(&nodev1.StatusBatch{Pods: []*nodev1.PodStatus{{Namespace: "default", Name: "a", Uid: string(pod.UID), Status: garbage}}}); len(problems) != 1 {
		t.Errorf("of its own pod: answered %q", problems)
	}
}

func TestLargeHonestReportsAreStored(t *testing.T) {
	r := report(t)
	pod := podNaming("a", "s")
	reported := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	pod.Spec.Containers = nil
	resources := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	for i := range 100 {
		name := fmt.Sprint("c", i)
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Image: "i"})
		reported.Status.ContainerStatuses = append(reported.Status.ContainerStatuses, corev1.ContainerStatus{Name: name, Image: "i", AllocatedResources: resources,
			State:                corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: strings.Repeat("x", 4096)}},
			Resources:            &corev1.ResourceRequirements{Limits: resources, Requests: resources}})
	}
	stored := create(t, r.h, pod)
	if err := r.h.Client.Bind(context.Background(), stored, "w1"); err != nil {
		t.Fatal(err)
	}
	n := node("w1")
	for i := range 500 {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{fmt.Sprintf("registry.example.com/team/image@sha256:%064d", i), fmt.Sprintf("registry.example.com/team/image:%d", i)}})
	}
	if problems := r.report(&nodev1.StatusBatch{NodeStatus: encode(t, n),
		Pods: []*nodev1.PodStatus{{Namespace: "default", Name: "a", Uid: string(stored.UID), Status: encode(t, reported)}}}); len(problems) > 0 {
		t.Fatal(problems)
	}
	now, _ := client.Get[*corev1.Pod](r.h.Client.View(), "default", "a")
	if len(now.Status.ContainerStatuses) != 100 || len(r.node().Status.Images) != 500 {
		t.Errorf("stored %d container statuses, %d images", len(now.Status.ContainerStatuses), len(r.node().Status.Images))
	}
}
