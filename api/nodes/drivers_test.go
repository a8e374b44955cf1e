package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	nodeapi "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/volumes"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

func asWorker(h *harness.Harness, node string) *Server {
	return New(Config{Client: h.Client, Caller: func(context.Context) (string, bool) { return node, node != "" }})
}

// TestDriversOfANode: a worker's drivers are in its CSINode, with their topology in the labels of its Node.
func TestDriversOfANode(t *testing.T) {
	h := harness.New(t)
	node := make1(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	make1(t, h, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d.example.com"}, Spec: storagev1.CSIDriverSpec{NodeAllocatableUpdatePeriodSeconds: new(int64(60))}})
	s := asWorker(h, "n1")
	report := func(r *nodev1.ReportDriverRequest) (*nodev1.ReportDriverResponse, codes.Code) {
		response, err := s.ReportDriver(context.Background(), r)
		return response, status.Code(err)
	}
	drivers := func() string {
		n, ok := client.Get[*storagev1.CSINode](h.Client.View(), "", "n1")
		if !ok {
			return "none"
		}
		if len(n.OwnerReferences) != 1 || n.OwnerReferences[0].UID != node.UID {
			t.Errorf("the owners of the CSINode are %v", n.OwnerReferences)
		}
		var out []string
		for _, d := range n.Spec.Drivers {
			count := "-"
			if d.Allocatable != nil {
				count = fmt.Sprint(*d.Allocatable.Count)
			}
			out = append(out, fmt.Sprint(d.Name, " ", d.NodeID, " ", d.TopologyKeys, " ", count))
		}
		return strings.Join(out, ", ")
	}
	if _, code := report(&nodev1.ReportDriverRequest{Name: "d.example.com", Gone: true}); code != codes.OK || drivers() != "none" {
		t.Errorf("a driver that was never there has gone: %v, %s", code, drivers())
	}
	first := &nodev1.ReportDriverRequest{Name: "d.example.com", NodeId: "id-1", Topology: map[string]string{"topology.d.example.com/zone": "a"}, MaxVolumes: 7}
	for range 2 {
		if response, code := report(first); code != codes.OK || response.UpdateSeconds != 60 || drivers() != "d.example.com id-1 [topology.d.example.com/zone] 7" {
			t.Errorf("%v, %v, %s", code, response, drivers())
		}
	}
	n, _ := client.Get[*corev1.Node](h.Client.View(), "", "n1")
	if n.Labels["topology.d.example.com/zone"] != "a" || n.Annotations[nodeIDs] != `{"d.example.com":"id-1"}` {
		t.Errorf("the node has the labels %v and the annotations %v", n.Labels, n.Annotations)
	}
	if _, code := report(&nodev1.ReportDriverRequest{Name: "d.example.com", NodeId: "id-1", Topology: map[string]string{"topology.d.example.com/zone": "b"}}); code != codes.FailedPrecondition {
		t.Errorf("another value of a label: %v", code)
	}
	// Another identity of the same driver replaces the entry, which the API would not let change.
	if _, code := report(&nodev1.ReportDriverRequest{Name: "d.example.com", NodeId: "id-2"}); code != codes.OK || drivers() != "d.example.com id-2 [] -" {
		t.Errorf("%v, %s", code, drivers())
	}
	if _, code := report(&nodev1.ReportDriverRequest{Name: "e.example.com", NodeId: "id"}); code != codes.OK {
		t.Error(code)
	}
	if _, code := report(&nodev1.ReportDriverRequest{Name: "d.example.com", Gone: true}); code != codes.OK || drivers() != "e.example.com id [] -" {
		t.Errorf("%v, %s", code, drivers())
	}
	for name, r := range map[string]*nodev1.ReportDriverRequest{
		"no name":                          {NodeId: "id"},
		"a long name":                      {Name: strings.Repeat("n", 64), NodeId: "id"},
		"no id":                            {Name: "f"},
		"a long id":                        {Name: "f", NodeId: strings.Repeat("i", 257)},
		"a negative count":                 {Name: "f", NodeId: "id", MaxVolumes: -1},
		"a huge count":                     {Name: "f", NodeId: "id", MaxVolumes: 1 << 40},
		"a restricted label":               {Name: "f", NodeId: "id", Topology: map[string]string{"node-restriction.kubernetes.io/zone": "secure"}},
		"a label of a role":                {Name: "f", NodeId: "id", Topology: map[string]string{"node-role.kubernetes.io/control-plane": ""}},
		"a value that is none":             {Name: "f", NodeId: "id", Topology: map[string]string{"example.com/zone": "a b"}},
		"a name that is no DNS":            {Name: "a b", NodeId: "id"},
		"labels of a driver that has gone": {Name: "f", Gone: true, Topology: map[string]string{"node-restriction.kubernetes.io/zone": "secure"}},
		"an id of a driver that has gone":  {Name: "f", Gone: true, NodeId: "id"},
	} {
		if _, code := report(r); code != codes.InvalidArgument {
			t.Errorf("%s: %v", name, code)
		}
	}
	if n, _ := client.Get[*corev1.Node](h.Client.View(), "", "n1"); n.Labels["node-restriction.kubernetes.io/zone"] != "" {
		t.Errorf("the node has the labels %v", n.Labels)
	}
	if _, err := asWorker(h, "").ReportDriver(context.Background(), first); status.Code(err) != codes.PermissionDenied {
		t.Errorf("without a certificate: %v", err)
	}
	if _, err := asWorker(h, "n2").ReportDriver(context.Background(), first); status.Code(err) != codes.NotFound {
		t.Errorf("of a node that does not exist: %v", err)
	}
}

// TestTooManyDriversAreRefusedEntirely: neither the CSINode nor the Node's annotation has more drivers than the limit.
func TestTooManyDriversAreRefusedEntirely(t *testing.T) {
	h := harness.New(t)
	ids := map[string]string{}
	full := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	for i := range maxDrivers {
		name := fmt.Sprintf("d%d.example.com", i)
		ids[name] = "id"
		full.Spec.Drivers = append(full.Spec.Drivers, storagev1.CSINodeDriver{Name: name, NodeID: "id"})
	}
	text, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	make1(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{nodeIDs: string(text)}}})
	make1(t, h, full)
	s := asWorker(h, "n1")
	extra := &nodev1.ReportDriverRequest{Name: "more.example.com", NodeId: "id", Topology: map[string]string{"example.com/zone": "a"}}
	if _, err := s.ReportDriver(context.Background(), extra); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
	n, _ := client.Get[*corev1.Node](h.Client.View(), "", "n1")
	if n.Annotations[nodeIDs] != string(text) || n.Labels["example.com/zone"] != "" {
		t.Errorf("the node has the labels %v and the annotations %v", n.Labels, n.Annotations)
	}
	if _, err := s.ReportDriver(context.Background(), &nodev1.ReportDriverRequest{Name: "d0.example.com", NodeId: "another"}); err != nil {
		t.Errorf("one of those that are there: %v", err)
	}
}

// TestAWorkerIsSentTheRuntimeClassesOfItsPods, and no others.
func TestAWorkerIsSentTheRuntimeClassesOfItsPods(t *testing.T) {
	h := harness.New(t)
	make1(t, h, &nodeapi.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "sandboxed"}, Handler: "runsc"})
	make1(t, h, &nodeapi.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "unused"}, Handler: "kata"})
	class := "sandboxed"
	make1(t, h, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"},
		Spec: corev1.PodSpec{NodeName: "n1", RuntimeClassName: &class, Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	a := assignmentOf(h, "n1")
	if got, want := (has{}).take(t, a, a.full(h.Client.View())), []string{"runtimeclasses/sandboxed"}; !slices.Equal(got, want) {
		t.Errorf("the worker is sent %v, want %v", got, want)
	}
}

// TestAWorkerIsSentTheDriversAndAttachmentsOfItsVolumes, and no attachment of another node.
func TestAWorkerIsSentTheDriversAndAttachmentsOfItsVolumes(t *testing.T) {
	h := harness.New(t)
	make1(t, h, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d"}})
	make1(t, h, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "inline"}})
	make1(t, h, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	claim := makeClaim(t, h, "data", "pv")
	makeVolume(t, h, "pv", claim)
	bind(t, h, claim, corev1.ClaimBound)
	attachment := func(handle, node string) string {
		name := volumes.AttachmentName("d", handle, "n1")
		make1(t, h, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.VolumeAttachmentSpec{Attacher: "d", NodeName: node,
			Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &handle}}})
		return name
	}
	mine := attachment("pv", "n1")
	podWithClaim(t, h, "p", "n1", "data")
	make1(t, h, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"}, Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "inline", NodePublishSecretRef: &corev1.LocalObjectReference{Name: "key"}}}}}}})
	make1(t, h, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "key"}})
	want := []string{"csidrivers/d", "csidrivers/inline", "persistentvolumeclaims/data", "persistentvolumes/pv", "secrets/key", "volumeattachments/" + mine}
	a := assignmentOf(h, "n1")
	if got := (has{}).take(t, a, a.full(h.Client.View())); !slices.Equal(got, want) {
		t.Errorf("the worker is sent %v, want %v", got, want)
	}

	// One with the name of an attachment to this node that is to another.
	stolen := makeClaim(t, h, "stolen", "pv2")
	makeVolume(t, h, "pv2", stolen)
	bind(t, h, stolen, corev1.ClaimBound)
	attachment("pv2", "n2")
	podWithClaim(t, h, "r", "n1", "stolen")
	a = assignmentOf(h, "n1")
	if got := (has{}).take(t, a, a.full(h.Client.View())); slices.Contains(got, "volumeattachments/"+volumes.AttachmentName("d", "pv2", "n1")) {
		t.Errorf("the worker is sent the attachment of another node: %v", got)
	}
}

// TestANodeExpandsVolumes: what a worker reports is in the claim's status as a kubelet writes it, and it can report nothing else.
func TestANodeExpandsVolumes(t *testing.T) {
	h := harness.New(t)
	claim := makeClaim(t, h, "data", "pv")
	volume := makeVolume(t, h, "pv", claim)
	bind(t, h, claim, corev1.ClaimBound)
	larger := volume.DeepCopy()
	larger.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
	if _, err := client.Update(context.Background(), h.Client, larger); err != nil {
		t.Fatal(err)
	}
	r := func(phase nodev1.ReportExpansionRequest_Phase) *nodev1.ReportExpansionRequest {
		return &nodev1.ReportExpansionRequest{Namespace: "default", Name: "data", Uid: string(claim.UID), Volume: "pv", Phase: phase, Size: "2Gi", Message: "no room"}
	}
	const begun, finished, failed, infeasible = nodev1.ReportExpansionRequest_PHASE_BEGUN, nodev1.ReportExpansionRequest_PHASE_FINISHED, nodev1.ReportExpansionRequest_PHASE_FAILED, nodev1.ReportExpansionRequest_PHASE_INFEASIBLE
	report := func(node string, r *nodev1.ReportExpansionRequest) codes.Code {
		_, err := asWorker(h, node).ReportExpansion(context.Background(), r)
		return status.Code(err)
	}
	if code := report("n1", r(begun)); code != codes.PermissionDenied {
		t.Errorf("no pod uses it: %v", code)
	}
	podWithClaim(t, h, "p", "n1", "data")
	if code := report("n1", r(finished)); code != codes.FailedPrecondition {
		t.Errorf("nobody waits for it: %v", code)
	}
	set := func(state corev1.ClaimResourceStatus) {
		t.Helper()
		c, _ := client.Get[*corev1.PersistentVolumeClaim](h.Client.View(), "default", "data")
		next := c.DeepCopy()
		next.Status.Capacity = oneGiB
		next.Status.AllocatedResources = larger.Spec.Capacity
		next.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: state}
		next.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue}}
		if _, err := client.UpdateStatus(context.Background(), h.Client, next); err != nil {
			t.Fatal(err)
		}
	}
	now := func() string {
		c, _ := client.Get[*corev1.PersistentVolumeClaim](h.Client.View(), "default", "data")
		var conditions []string
		for _, o := range c.Status.Conditions {
			conditions = append(conditions, strings.TrimSpace(fmt.Sprint(o.Type, " ", o.Message)))
		}
		return fmt.Sprint(c.Status.Capacity.Storage(), " ", c.Status.AllocatedResourceStatuses[corev1.ResourceStorage], " ", conditions)
	}
	set(corev1.PersistentVolumeClaimNodeResizePending)
	if code := report("n2", r(begun)); code != codes.PermissionDenied {
		t.Errorf("another node: %v", code)
	}
	for i, change := range []func(r *nodev1.ReportExpansionRequest){
		func(r *nodev1.ReportExpansionRequest) { r.Uid = "other" },
		func(r *nodev1.ReportExpansionRequest) { r.Volume = "other" },
		func(r *nodev1.ReportExpansionRequest) { r.Size = "3Gi" },
		func(r *nodev1.ReportExpansionRequest) { r.Size = "much" },
		func(r *nodev1.ReportExpansionRequest) { r.Message = strings.Repeat("x", maxExpansionMessage+1) },
		func(r *nodev1.ReportExpansionRequest) { r.Phase = 9 },
	} {
		wrong := r(finished)
		if change(wrong); report("n1", wrong) == codes.OK {
			t.Errorf("wrong request %d was accepted", i)
		}
	}
	if got := now(); got != "1Gi NodeResizePending [FileSystemResizePending]" {
		t.Errorf("before: %s", got)
	}
	for _, step := range []struct {
		phase nodev1.ReportExpansionRequest_Phase
		want  string
	}{
		{begun, "1Gi NodeResizeInProgress [FileSystemResizePending]"},
		{failed, "1Gi NodeResizeInProgress [FileSystemResizePending NodeResizeError failed to expand pvc with no room]"},
		{finished, "2Gi  []"},
		{finished, "2Gi  []"},
	} {
		if code := report("n1", r(step.phase)); code != codes.OK || now() != step.want {
			t.Errorf("%v: %v, %s, want %s", step.phase, code, now(), step.want)
		}
	}
	set(corev1.PersistentVolumeClaimNodeResizeInProgress)
	for range 2 {
		if code := report("n1", r(infeasible)); code != codes.OK || !strings.HasPrefix(now(), "1Gi NodeResizeInfeasible") {
			t.Errorf("infeasible: %v, %s", code, now())
		}
	}
}
