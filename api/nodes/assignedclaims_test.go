package nodes

import (
	"context"
	"maps"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/localpath"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

var oneGiB = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}

func makeClaim(t *testing.T, h *harness.Harness, name, volume string) *corev1.PersistentVolumeClaim {
	t.Helper()
	class := ""
	return make1(t, h, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeName: volume, StorageClassName: &class,
		Resources: corev1.VolumeResourceRequirements{Requests: oneGiB}}})
}

// makeVolume creates a volume that is bound to a claim and needs a Secret of kube-system.
func makeVolume(t *testing.T, h *harness.Harness, name string, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	t.Helper()
	return make1(t, h, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: oneGiB,
		ClaimRef: &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: name,
			NodePublishSecretRef: &corev1.SecretReference{Namespace: "kube-system", Name: "key-of-" + name}}}}})
}

func bind(t *testing.T, h *harness.Harness, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase) {
	t.Helper()
	next := claim.DeepCopy()
	next.ResourceVersion, next.Status.Phase = "", phase
	if _, err := client.UpdateStatus(context.Background(), h.Client, next); err != nil {
		t.Fatal(err)
	}
}

func podWithClaim(t *testing.T, h *harness.Harness, name, node, claim string) *corev1.Pod {
	t.Helper()
	return make1(t, h, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: new(int64),
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}}})
}

// has are the objects that a worker has after what was sent.
type has map[key]bool

func (w has) take(t *testing.T, a *assignment, d *delta) []string {
	t.Helper()
	upserts, deletes, err := a.message(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range upserts {
		w[key{o.Key.Resource, o.Key.Namespace, o.Key.Name}] = true
	}
	for _, k := range deletes {
		delete(w, key{k.Resource, k.Namespace, k.Name})
	}
	var out []string
	for k := range maps.Keys(w) {
		if k.resource != "pods" && k.resource != "nodes" {
			out = append(out, k.resource+"/"+k.name)
		}
	}
	slices.Sort(out)
	return out
}

// TestVolumesOfClaimsAreFollowed: a worker is sent the claims of its pods, their volumes and the Secrets of these, as they come and go.
func TestVolumesOfClaimsAreFollowed(t *testing.T) {
	h := harness.New(t)
	d := dispatching(t, h)
	s := d.subscribe("n1")
	defer s.Close()
	if _, ok := s.start(0, true); !ok {
		t.Fatal("it cannot start")
	}
	v := h.Client.View()
	a := newAssignment("n1", h.Client.View, s)
	worker := has{}
	worker.take(t, a, a.full(v))
	until := func(want ...string) {
		t.Helper()
		var got []string
		for range 100 {
			var events []client.Event
			for _, c := range awaitEvent(t, s) {
				if c.shared == nil && c.revision > v.Revision() {
					events = append(events, c.event)
				}
			}
			delta := newDelta()
			a.apply(delta, events)
			if got = worker.take(t, a, delta); slices.Equal(got, want) {
				return
			}
		}
		t.Fatalf("the worker has %v, want %v", got, want)
	}
	for _, name := range []string{"key-of-pv", "key-of-others"} {
		make1(t, h, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}})
	}
	pod := podWithClaim(t, h, "p", "n1", "data")
	claim := makeClaim(t, h, "data", "pv")
	until("persistentvolumeclaims/data")
	volume := makeVolume(t, h, "pv", claim)
	bind(t, h, claim, corev1.ClaimBound)
	all := []string{"persistentvolumeclaims/data", "persistentvolumes/pv", "secrets/key-of-pv"}
	until(all...)
	again := has{}
	if got := again.take(t, assignmentOf(h, "n1"), assignmentOf(h, "n1").full(h.Client.View())); !slices.Equal(got, all) {
		t.Errorf("a new session has %v, want %v", got, all)
	}
	volume = volume.DeepCopy()
	volume.Finalizers = nil // nobody protects it here
	volume, err := client.Update(context.Background(), h.Client, volume)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Client.Delete(context.Background(), volume); err != nil {
		t.Fatal(err)
	}
	until("persistentvolumeclaims/data")
	if err := h.Client.Delete(context.Background(), pod); err != nil {
		t.Fatal(err)
	}
	until()
	if len(a.named)+len(a.holds) != 0 {
		t.Errorf("it still follows %v", a.named)
	}
}

// TestAClaimGivesNobodyAnothersVolume: whoever writes a volume's name into a claim gets neither the volume nor its Secrets.
func TestAClaimGivesNobodyAnothersVolume(t *testing.T) {
	h := harness.New(t)
	make1(t, h, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "key-of-pv"}})
	owner := makeClaim(t, h, "owner", "pv")
	makeVolume(t, h, "pv", owner)
	bind(t, h, owner, corev1.ClaimBound)
	thief := makeClaim(t, h, "thief", "pv")
	bind(t, h, thief, corev1.ClaimBound) // even then
	podWithClaim(t, h, "p", "n1", "thief")
	a := assignmentOf(h, "n1")
	if got := (has{}).take(t, a, a.full(h.Client.View())); !slices.Equal(got, []string{"persistentvolumeclaims/thief"}) {
		t.Errorf("the worker is sent %v", got)
	}
}

// TestANodeIsSentTheVolumesWhoseFoldersItHas, whether pods use them or not, and may report about these only.
func TestANodeIsSentTheVolumesWhoseFoldersItHas(t *testing.T) {
	h := harness.New(t)
	folder := func(name, node string) *corev1.PersistentVolume {
		return make1(t, h, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			localpath.ProvisionedBy: localpath.Provisioner, localpath.Node: node}}, Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: oneGiB, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/p"}}}})
	}
	mine, others := folder("mine", "n1"), folder("others", "n2")
	a := assignmentOf(h, "n1")
	worker := has{}
	if got := worker.take(t, a, a.full(h.Client.View())); !slices.Equal(got, []string{"persistentvolumes/mine"}) {
		t.Errorf("the worker is sent %v", got)
	}
	server := New(Config{Client: h.Client, Caller: func(context.Context) (string, bool) { return "n1", true }})
	report := func(pv *corev1.PersistentVolume, state nodev1.ReportVolumeRequest_State) codes.Code {
		_, err := server.ReportVolume(context.Background(), &nodev1.ReportVolumeRequest{Name: pv.Name, Uid: string(pv.UID), State: state, Quota: "q"})
		return status.Code(err)
	}
	const made, removed = nodev1.ReportVolumeRequest_STATE_MADE, nodev1.ReportVolumeRequest_STATE_REMOVED
	if code := report(others, made); code != codes.PermissionDenied {
		t.Errorf("about another's: %v", code)
	}
	if code := report(mine, made); code != codes.OK {
		t.Errorf("made: %v", code)
	}
	if code := report(mine, removed); code != codes.FailedPrecondition {
		t.Errorf("a volume that is not released was removed: %v", code)
	}
	pv, _ := client.Get[*corev1.PersistentVolume](h.Client.View(), "", "mine")
	if pv.Annotations[localpath.State] != localpath.Made || pv.Annotations[localpath.Quota] != "q" {
		t.Errorf("the annotations are %v", pv.Annotations)
	}
	pv = pv.DeepCopy()
	pv.Status.Phase = corev1.VolumeReleased
	if _, err := client.UpdateStatus(context.Background(), h.Client, pv); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time is no error
		if code := report(mine, removed); code != codes.OK {
			t.Errorf("removed: %v", code)
		}
	}
}
