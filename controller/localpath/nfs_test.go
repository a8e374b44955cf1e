package localpath_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	controller "github.com/kontiki/kontiki/controller/localpath"
	"github.com/kontiki/kontiki/controller/persistentvolume"
	"github.com/kontiki/kontiki/controller/storageprotection"
	"github.com/kontiki/kontiki/internal/localpath"
	"github.com/kontiki/kontiki/test/harness"
)

func startNFS(t testing.TB, parameters map[string]string) *bed {
	t.Helper()
	b := &bed{harness.New(t), t, controllertest.NewRecorder()}
	controllertest.Create(t, b.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "nfs"}, Provisioner: localpath.NFS, Parameters: parameters,
		MountOptions: []string{"nfsvers=4.2"}})
	controllertest.Run(t, b.Client, controller.NewNFS(b.Client, b.recorder), persistentvolume.New(b.Client, controllertest.NewRecorder()),
		storageprotection.NewClaims(b.Client), storageprotection.NewVolumes(b.Client))
	return b
}

func (b *bed) nfsClaim(name string) *corev1.PersistentVolumeClaim {
	b.t.Helper()
	return controllertest.Create(b.t, b.Client, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}, StorageClassName: ptr.To("nfs"),
			Resources: corev1.VolumeResourceRequirements{Requests: size("1Gi")}}})
}

func (b *bed) readyNode(name string, ready corev1.ConditionStatus) {
	b.t.Helper()
	node := controllertest.Create(b.t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	node = node.DeepCopy()
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	if _, err := client.UpdateStatus(context.Background(), b.Client, node); err != nil {
		b.t.Fatal(err)
	}
}

// TestAFolderOnAServer: a claim gets a folder of its own; a node that is ready is asked to remove it.
func TestAFolderOnAServer(t *testing.T) {
	b := startNFS(t, map[string]string{"server": "nas", "share": "/team", "subDir": "${pvc.metadata.namespace}/${pvc.metadata.name}"})
	b.readyNode("down", corev1.ConditionUnknown)
	b.readyNode("up", corev1.ConditionTrue)
	claim := b.nfsClaim("data")
	volume := b.bound("data")
	if nfs := volume.Spec.NFS; nfs == nil || nfs.Server != "nas" || nfs.Path != "/team/default/data" || volume.Annotations[localpath.Share] != "/team" ||
		volume.Spec.NodeAffinity != nil || len(volume.Spec.MountOptions) != 1 || localpath.NodeOf(volume.Annotations) != "" {
		t.Errorf("the volume is %+v", volume)
	}
	b.told(volume.Name, localpath.Made)
	b.delete(claim)
	controllertest.Await(t, b.Client, "", volume.Name, "the node that is ready", func(v *corev1.PersistentVolume) bool { return localpath.NodeOf(v.Annotations) == "up" })
	b.told(volume.Name, localpath.Removed)
	controllertest.AwaitGone[*corev1.PersistentVolume](t, b.Client, "", volume.Name)
	unused := b.nfsClaim("unused")
	volume = b.bound("unused")
	b.delete(unused) // no pod has mounted it: there is no folder
	controllertest.AwaitGone[*corev1.PersistentVolume](t, b.Client, "", volume.Name)
}

func TestFoldersOnAServerThatAreRefused(t *testing.T) {
	const prefix = `Warning ProvisioningFailed failed to provision volume with StorageClass "nfs": `
	for _, c := range []struct{ name, share, subDir, want string }{
		{"out of the share", "/team", "../${pvc.metadata.name}", `subDir "../${pvc.metadata.name}": "../data" is not a path of folders below the share`},
		{"out of the share later", "/team", "a/../../b", `subDir "a/../../b": "a/../../b" is not a path of folders below the share`},
		{"the root", "/team", "/etc", `subDir "/etc": "/etc" is not a path of folders below the share`},
		{"the share", "/team", ".", `subDir ".": "." is not a path of folders below the share`},
		{"a removed folder", "/team", ".kontiki-removed-x", `subDir ".kontiki-removed-x"`},
		{"an unknown name", "/team", "${pod.name}", `subDir "${pod.name}": only `},
		{"a share with dots", "/team/../x", "a", `share "/team/../x": it must be an absolute path`},
		{"no share", "", "a", "the parameters server and share are required"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := startNFS(t, map[string]string{"server": "nas", "share": c.share, "subDir": c.subDir})
			b.nfsClaim("data")
			b.recorder.Await(t, prefix+c.want)
		})
	}
}

// TestNoTwoClaimsShareAFolder, not even one in the other's: the removal of one would take the other's data.
func TestNoTwoClaimsShareAFolder(t *testing.T) {
	b := startNFS(t, map[string]string{"server": "nas", "share": "/team", "subDir": "same"})
	for _, name := range []string{"a", "b", "c"} {
		b.nfsClaim(name)
	}
	b.recorder.AwaitN(t, `Warning ProvisioningFailed failed to provision volume with StorageClass "nfs": subDir "same": the folder /team/same is that of volume `, 2)
	n := 0
	client.Each(b.Client.View(), "", func(*corev1.PersistentVolume) bool { n++; return true })
	if n != 1 {
		t.Errorf("there are %d volumes", n)
	}
}

// TestAClaimGetsTheFolderOfOneThatIsGone: a claim that is made again under its name waits until the folder of the earlier one is removed.
func TestAClaimGetsTheFolderOfOneThatIsGone(t *testing.T) {
	b := startNFS(t, map[string]string{"server": "nas", "share": "/team", "subDir": "${pvc.metadata.namespace}/${pvc.metadata.name}"})
	b.readyNode("up", corev1.ConditionTrue)
	claim := b.nfsClaim("data")
	volume := b.bound("data")
	b.told(volume.Name, localpath.Made)
	b.delete(claim)
	controllertest.AwaitGone[*corev1.PersistentVolumeClaim](t, b.Client, "default", "data")
	b.nfsClaim("data")
	b.recorder.Await(t, `Warning ProvisioningFailed failed to provision volume with StorageClass "nfs": subDir `)
	controllertest.Await(t, b.Client, "", volume.Name, "the node that is ready", func(v *corev1.PersistentVolume) bool { return localpath.NodeOf(v.Annotations) == "up" })
	b.told(volume.Name, localpath.Removed)
	if later := b.bound("data"); later.Name == volume.Name || later.Spec.NFS.Path != "/team/default/data" {
		t.Errorf("the later claim has %+v", later)
	}
}

// TestAClassThatIsMadeAgainIsTried: a class cannot be changed, so a mistake in it is mended by another of its name.
func TestAClassThatIsMadeAgainIsTried(t *testing.T) {
	b := startNFS(t, map[string]string{"server": "nas", "shar": "/team"})
	b.nfsClaim("data")
	b.recorder.Await(t, `Warning ProvisioningFailed failed to provision volume with StorageClass "nfs": unknown parameter "shar"`)
	if err := b.Client.Delete(t.Context(), &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "nfs"}}); err != nil {
		t.Fatal(err)
	}
	controllertest.Create(t, b.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "nfs"}, Provisioner: localpath.NFS,
		Parameters: map[string]string{"server": "nas", "share": "/team"}})
	if volume := b.bound("data"); volume.Spec.NFS.Server != "nas" {
		t.Errorf("the volume is %+v", volume)
	}
}
