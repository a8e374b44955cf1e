package fence_test

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/fence"
	"github.com/kontiki/kontiki/internal/volumes"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t     testing.TB
	clock *controllertest.Clock
	rec   *controllertest.Recorder
}

// start makes a node with the pods db (a volume for one node at a time), web (a shared volume) and plain, and those of a local volume and
// one that stays for ever.
func start(t testing.TB, lease string) *bed {
	t.Helper()
	b := &bed{harness.New(t), t, controllertest.NewClock(time.Now()), controllertest.NewRecorder()}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{}}}
	if lease != "" {
		node.Annotations[volumes.LeaseOfNode] = lease
	}
	controllertest.Create(t, b.Client, node)
	b.ready(corev1.ConditionTrue)
	b.pod("plain", "", nil)
	b.pod("db", corev1.ReadWriteOnce, nil)
	b.pod("web", corev1.ReadWriteMany, nil)
	b.pod("local", corev1.ReadWriteOnce, func(pv *corev1.PersistentVolume, _ *corev1.Pod) {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}}}}}}}
	})
	b.pod("stays", corev1.ReadWriteOnce, func(_ *corev1.PersistentVolume, p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
	})
	return b
}

func (b *bed) run() (stop func()) {
	return controllertest.Run(b.t, b.Client, fence.New(fence.Config{Client: b.Client, Recorder: b.rec, Now: b.clock.Now}))
}

func (b *bed) pod(name string, mode corev1.PersistentVolumeAccessMode, change func(*corev1.PersistentVolume, *corev1.Pod)) {
	b.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if mode != "" {
		size, modes := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, []corev1.PersistentVolumeAccessMode{mode}
		claim := controllertest.Create(b.t, b.Client, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, VolumeName: name, Resources: corev1.VolumeResourceRequirements{Requests: size}}})
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{Capacity: size, AccessModes: modes,
			PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}},
			ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "default", Name: name, UID: claim.UID}}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
		if change != nil {
			change(pv, pod)
		}
		controllertest.Create(b.t, b.Client, pv)
	}
	controllertest.Create(b.t, b.Client, pod)
}

func (b *bed) ready(status corev1.ConditionStatus) {
	b.t.Helper()
	controllertest.ChangeStatus(b.t, b.Client, "", "n1", func(n *corev1.Node) {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
	})
}

func (b *bed) await(annotation string, is bool) {
	b.t.Helper()
	controllertest.Await(b.t, b.Client, "", "n1", annotation, func(n *corev1.Node) bool { return metav1.HasAnnotation(n.ObjectMeta, annotation) == is })
}

func (b *bed) exists(pod string) bool {
	_, ok := client.Get[*corev1.Pod](b.Client.View(), "default", pod)
	return ok
}

// poke makes the controller look at the node again, as its timer runs by the real clock.
func (b *bed) poke() {
	b.t.Helper()
	controllertest.Change(b.t, b.Client, "", "n1", func(n *corev1.Node) { metav1.SetMetaDataAnnotation(&n.ObjectMeta, "poke", b.clock.Now().String()) })
}

// pass lets time pass until the node is fenced.
func (b *bed) pass() {
	b.t.Helper()
	await.That(b.t, "the node to be fenced", func() error {
		if n, _ := client.Get[*corev1.Node](b.Client.View(), "", "n1"); metav1.HasAnnotation(n.ObjectMeta, volumes.FencedNode) {
			return nil
		}
		b.clock.Advance(10 * time.Minute)
		b.poke()
		return errors.New("it is not marked")
	})
}

func TestANodeThatIsLostIsFenced(t *testing.T) {
	b := start(t, "1h")
	b.run()
	b.ready(corev1.ConditionUnknown)
	b.await(volumes.FencingNode, true)
	if !b.exists("db") {
		t.Fatal("a pod was removed before the node was fenced")
	}
	b.pass()
	b.rec.Await(t, "Warning NodeFenced")
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "db")
	for _, pod := range []string{"plain", "web", "local", "stays"} {
		if !b.exists(pod) {
			t.Errorf("pod %s was removed", pod)
		}
	}
	// A pod that comes there later has no lease either.
	b.pod("late", corev1.ReadWriteOnce, nil)
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "late")
	// The worker gets leases again when it is back.
	b.ready(corev1.ConditionTrue)
	b.await(volumes.FencedNode, false)
	b.await(volumes.FencingNode, false)
}

func TestANodeThatIsBackInTimeIsNotFenced(t *testing.T) {
	b := start(t, "1h")
	b.run()
	b.ready(corev1.ConditionUnknown)
	b.await(volumes.FencingNode, true)
	b.ready(corev1.ConditionTrue)
	b.await(volumes.FencingNode, false)
	if !b.exists("db") {
		t.Error("its pod was removed")
	}
}

// A new leader does not know how long the old one had waited.
func TestANewLeaderWaitsAgain(t *testing.T) {
	b := start(t, "1h")
	stop := b.run()
	b.ready(corev1.ConditionUnknown)
	b.await(volumes.FencingNode, true)
	stop()
	b.clock.Advance(24 * time.Hour)
	b.run()
	b.ready(corev1.ConditionTrue)
	b.await(volumes.FencingNode, false)
	if !b.exists("db") {
		t.Error("its pod was removed")
	}
}

// A worker without leases does not stop anything by itself, so nothing of it is let go.
func TestANodeWithoutLeasesIsNotFenced(t *testing.T) {
	b := start(t, "")
	b.run()
	b.ready(corev1.ConditionUnknown)
	b.pod("witness", corev1.ReadWriteOnce, nil) // its event is handled after the node's
	b.clock.Advance(time.Hour)
	b.poke()
	if n, _ := client.Get[*corev1.Node](b.Client.View(), "", "n1"); metav1.HasAnnotation(n.ObjectMeta, volumes.FencingNode) || !b.exists("db") {
		t.Errorf("annotations %v", n.Annotations)
	}
}
