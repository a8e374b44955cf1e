package scheduler_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/kontiki/kontiki/api/client"
)

func create[T client.Object](b *bed, obj T) T {
	b.t.Helper()
	made, err := client.Create(context.Background(), b.Client, obj)
	if err != nil {
		b.t.Fatal(err)
	}
	return made
}

func (b *bed) class(name, provisioner string, mode storagev1.VolumeBindingMode) {
	b.t.Helper()
	create(b, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode})
}

func (b *bed) claim(name, class, size string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	b.t.Helper()
	if len(modes) == 0 {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	return create(b, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: modes, StorageClassName: &class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}})
}

// volume creates a volume that can be used on one node.
func (b *bed) volume(name, class, size, node string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	b.t.Helper()
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/x"}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}},
	}}
	for _, c := range change {
		c(pv)
	}
	pv = create(b, pv)
	pv.Status.Phase = corev1.VolumeAvailable
	pv, err := client.UpdateStatus(context.Background(), b.Client, pv)
	if err != nil {
		b.t.Fatal(err)
	}
	return pv
}

func claiming(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, name := range names {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		}
	}
}

// controlVolumes completes what the scheduler decided, as the volume controller and provisioners do, until the test ends.
func (b *bed) controlVolumes() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
	look := func(v client.View) {
		client.Each(v, "", func(claim *corev1.PersistentVolumeClaim) bool {
			if claim.Spec.VolumeName != "" {
				return true
			}
			if node := claim.Annotations[volume.AnnSelectedNode]; node != "" {
				pv := b.volume("for-"+claim.Name, *claim.Spec.StorageClassName, "10Gi", node)
				b.bind(pv, claim)
				return true
			}
			client.Each(v, "", func(pv *corev1.PersistentVolume) bool {
				if pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID == claim.UID {
					b.bind(pv, claim)
				}
				return true
			})
			return true
		})
	}
	go func() {
		defer close(done)
		_ = b.Client.ViewAndWatch(ctx, []client.Object{&corev1.PersistentVolume{}, &corev1.PersistentVolumeClaim{}}, func(v client.View) error {
			look(v)
			return nil
		}, func([]client.Event) error {
			look(b.Client.View())
			return nil
		})
	}()
}

// bind completes the binding of a claim.
func (b *bed) bind(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) {
	current, ok := client.Get[*corev1.PersistentVolumeClaim](b.Client.View(), claim.Namespace, claim.Name)
	if !ok || current.Spec.VolumeName != "" {
		return
	}
	current = current.DeepCopy()
	current.Spec.VolumeName = pv.Name
	metav1.SetMetaDataAnnotation(&current.ObjectMeta, volume.AnnBindCompleted, "yes")
	if _, err := client.Update(context.Background(), b.Client, current); err != nil {
		b.t.Errorf("bind %s: %v", claim.Name, err)
	}
}

func TestVolumes(t *testing.T) {
	const waits, atOnce = storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	t.Run("a pod is placed where an existing volume is", func(t *testing.T) {
		b := start(t)
		b.controlVolumes()
		b.class("local", volume.NotSupportedProvisioner, waits)
		for _, name := range []string{"a", "b", "c"} {
			b.node(name, "8")
		}
		b.volume("small", "local", "1Gi", "a")
		b.volume("right", "local", "10Gi", "b")
		b.volume("other", "another", "10Gi", "c")
		b.claim("data", "local", "5Gi")
		b.pod("p", "1", claiming("data"))
		if at := b.placed("p"); at != "b" {
			t.Errorf("it is on %s", at)
		}
		pv, _ := client.Get[*corev1.PersistentVolume](b.Client.View(), "", "right")
		if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Name != "data" || pv.Annotations[volume.AnnBoundByController] != "yes" {
			t.Errorf("the volume's claim is %+v, its annotations %v", pv.Spec.ClaimRef, pv.Annotations)
		}
		// The volume is taken now, and remains where it is.
		b.claim("more", "local", "5Gi")
		b.pod("q", "1", claiming("more"))
		b.refused("q", "0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind.")
		b.pod("r", "1", claiming("data"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "a"} })
		b.refused("r", "0/3 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 2 node(s) didn't match Pod's node affinity/selector.")
		b.volume("late", "local", "7Gi", "c")
		if at := b.placed("q"); at != "c" {
			t.Errorf("q is on %s, the new volume is on c", at)
		}
	})
	t.Run("two pods at once do not get one volume", func(t *testing.T) {
		b := start(t)
		b.class("local", volume.NotSupportedProvisioner, waits)
		b.node("a", "8")
		b.volume("v1", "local", "5Gi", "a")
		b.volume("v2", "local", "5Gi", "a")
		for i := range 3 {
			name := fmt.Sprint("c", i)
			b.claim(name, "local", "5Gi")
			b.pod(fmt.Sprint("p", i), "10m", claiming(name))
		}
		// None is bound yet: nobody completes the bindings.
		b.event("didn't find available persistent volumes to bind")
		b.controlVolumes()
		bound := 0
		for i := range 3 {
			p := b.await(fmt.Sprint("p", i), "a decision", func(p *corev1.Pod) bool {
				return p.Spec.NodeName != "" || condition(p, corev1.PodScheduled).Status == corev1.ConditionFalse
			})
			if p.Spec.NodeName != "" {
				bound++
			}
		}
		if bound != 2 {
			t.Errorf("%d pods have a volume, there are 2", bound)
		}
	})
	t.Run("a volume is provisioned for the node that was chosen", func(t *testing.T) {
		b := start(t)
		b.controlVolumes()
		b.class("dynamic", "p.example.com", waits)
		b.node("a", "500m")
		b.node("b", "8")
		b.claim("data", "dynamic", "5Gi")
		b.pod("p", "1", claiming("data"))
		if at := b.placed("p"); at != "b" {
			t.Errorf("it is on %s", at)
		}
		claim, _ := client.Get[*corev1.PersistentVolumeClaim](b.Client.View(), "default", "data")
		if claim.Annotations[volume.AnnSelectedNode] != "b" {
			t.Errorf("the claim's annotations: %v", claim.Annotations)
		}
	})
	t.Run("a provisioner that gives up makes the pod be scheduled again", func(t *testing.T) {
		b := start(t)
		b.class("dynamic", "p.example.com", waits)
		b.node("a", "8")
		b.claim("data", "dynamic", "5Gi")
		b.pod("p", "1", claiming("data"))
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		given := false
		err := b.Client.ViewAndWatch(ctx, []client.Object{&corev1.PersistentVolumeClaim{}}, func(client.View) error { return nil }, func(events []client.Event) error {
			for _, e := range events {
				claim, ok := e.New.(*corev1.PersistentVolumeClaim)
				if !ok || claim.Annotations[volume.AnnSelectedNode] == "" {
					continue
				}
				if given {
					cancel() // it was selected again
					return nil
				}
				given = true
				claim = claim.DeepCopy()
				delete(claim.Annotations, volume.AnnSelectedNode)
				if _, err := client.Update(ctx, b.Client, claim); err != nil {
					return err
				}
			}
			return nil
		})
		if ctx.Err() == context.DeadlineExceeded || err != context.Canceled {
			t.Fatalf("the node was not selected again: %v", err)
		}
		b.event(`binding rejected: binding volumes: provisioning failed for PVC "data"`)
		b.controlVolumes()
		b.placed("p")
	})
	t.Run("claims that are bound at once", func(t *testing.T) {
		b := start(t)
		b.class("now", "p.example.com", atOnce)
		b.node("a", "8")
		claim := b.claim("data", "now", "5Gi")
		b.pod("p", "1", claiming("data"))
		b.refused("p", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
		b.bind(b.volume("v", "now", "5Gi", "a"), claim)
		b.placed("p")
	})
	t.Run("a claim for one pod only", func(t *testing.T) {
		b := start(t)
		b.class("now", "p.example.com", atOnce)
		b.node("a", "8")
		b.node("b", "8")
		claim := b.claim("data", "now", "5Gi", corev1.ReadWriteOncePod)
		b.bind(b.volume("v", "now", "5Gi", "a", func(pv *corev1.PersistentVolume) {
			pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			pv.Spec.NodeAffinity = nil
			pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}}
		}), claim)
		b.pod("p", "1", claiming("data"))
		b.placed("p")
		b.pod("q", "1", claiming("data"))
		b.refused("q", "0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod.")
		b.kill("p")
		b.placed("q")
		// A pod of a higher priority takes it.
		b.pod("r", "1", claiming("data"), func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-cluster-critical" })
		b.await("q", "preemption", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
		b.kill("q")
		b.placed("r")
	})
	t.Run("volumes of a zone", func(t *testing.T) {
		b := start(t)
		b.class("now", "p.example.com", atOnce)
		zone := func(z string) func(*corev1.Node) {
			return func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = z }
		}
		b.node("a", "8", zone("1"))
		b.node("b", "8", zone("2"))
		claim := b.claim("data", "now", "5Gi")
		b.bind(b.volume("v", "now", "5Gi", "a", func(pv *corev1.PersistentVolume) {
			pv.Labels = map[string]string{corev1.LabelTopologyZone: "2__3"}
			pv.Spec.NodeAffinity = nil
			pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}}
		}), claim)
		b.pod("p", "1", claiming("data"))
		if at := b.placed("p"); at != "b" {
			t.Errorf("it is on %s", at)
		}
		b.pod("q", "1", claiming("data"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "a"} })
		b.refused("q", "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had no available volume zone.")
	})
	t.Run("as many volumes as a driver can attach", func(t *testing.T) {
		b := start(t)
		b.controlVolumes()
		b.class("dynamic", "p.example.com", waits)
		node := func(name string, count int32) {
			b.node(name, "8")
			create(b, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
				Name: "p.example.com", NodeID: name, Allocatable: &storagev1.VolumeNodeResources{Count: &count}}}}})
		}
		node("a", 2)
		for _, name := range []string{"c1", "c2", "c3"} {
			b.claim(name, "dynamic", "1Gi")
		}
		b.pod("p", "1", claiming("c1", "c2", "c3"))
		b.refused("p", "0/1 nodes are available: 1 node(s) exceed max volume count.")
		node("b", 3)
		if at := b.placed("p"); at != "b" {
			t.Errorf("it is on %s", at)
		}
	})
	t.Run("volumes of kinds that drivers have replaced count as theirs", func(t *testing.T) {
		b := start(t)
		b.node("a", "8", func(n *corev1.Node) { n.Labels["topology.ebs.csi.aws.com/zone"] = "z1" })
		create(b, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
			Name: "ebs.csi.aws.com", NodeID: "a", Allocatable: &storagev1.VolumeNodeResources{Count: new(int32(2))}}}}})
		b.class("now", "kubernetes.io/aws-ebs", atOnce)
		ebs := func(name, zone string) {
			b.bind(b.volume(name, "now", "1Gi", "a", func(pv *corev1.PersistentVolume) {
				pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: name}}
				pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions = []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}}
			}), b.claim(name, "now", "1Gi"))
		}
		ebs("here", "z1")
		ebs("there", "z2")
		b.pod("p", "1", claiming("here"))
		b.placed("p")
		b.pod("q", "1", claiming("there"))
		b.refused("q", "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity.")
		inline := func(ids ...string) func(*corev1.Pod) {
			return func(p *corev1.Pod) {
				for _, id := range ids {
					p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: id, VolumeSource: corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: id}}})
				}
			}
		}
		b.pod("r", "1", inline("i1", "i2"))
		b.refused("r", "0/1 nodes are available: 1 node(s) exceed max volume count.")
		b.pod("s", "1", inline("i1"))
		b.placed("s")
	})
	t.Run("storage that a driver has", func(t *testing.T) {
		b := start(t)
		b.controlVolumes()
		b.class("dynamic", "p.example.com", waits)
		yes := true
		create(b, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "p.example.com"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}})
		capacity := func(node, size string) {
			quantity := resource.MustParse(size)
			create(b, &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "at-" + node}, StorageClassName: "dynamic",
				NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelHostname: node}}, Capacity: &quantity})
		}
		for _, name := range []string{"a", "b", "c"} {
			b.node(name, "8")
		}
		capacity("a", "1Gi")
		b.claim("data", "dynamic", "5Gi")
		b.pod("p", "1", claiming("data"))
		b.refused("p", "0/3 nodes are available: 3 node(s) did not have enough free storage.")
		capacity("c", "20Gi")
		if at := b.placed("p"); at != "c" {
			t.Errorf("it is on %s", at)
		}
	})
}
