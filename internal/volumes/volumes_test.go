package volumes_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/volumes"
)

func TestVolumesOfReplacedKindsAreTranslated(t *testing.T) {
	for name, c := range map[string]struct {
		source         corev1.PersistentVolumeSource
		driver, handle string
	}{
		"awsElasticBlockStore": {corev1.PersistentVolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-1"}}, "ebs.csi.aws.com", "vol-1"},
		"gcePersistentDisk":    {corev1.PersistentVolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: "disk"}}, "pd.csi.storage.gke.io", "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/disk"},
		"azureDisk":            {corev1.PersistentVolumeSource{AzureDisk: &corev1.AzureDiskVolumeSource{DiskName: "d", DataDiskURI: "/uri"}}, "disk.csi.azure.com", "/uri"},
		"azureFile": {corev1.PersistentVolumeSource{AzureFile: &corev1.AzureFilePersistentVolumeSource{ShareName: "share", SecretName: "azure-storage-account-acc-secret", SecretNamespace: new("ns")}},
			"file.csi.azure.com", "#acc#share#p#ns"},
		"cinder":         {corev1.PersistentVolumeSource{Cinder: &corev1.CinderPersistentVolumeSource{VolumeID: "c1"}}, "cinder.csi.openstack.org", "c1"},
		"vsphereVolume":  {corev1.PersistentVolumeSource{VsphereVolume: &corev1.VsphereVirtualDiskVolumeSource{VolumePath: "[ds] a.vmdk"}}, "csi.vsphere.vmware.com", "[ds] a.vmdk"},
		"portworxVolume": {corev1.PersistentVolumeSource{PortworxVolume: &corev1.PortworxVolumeSource{VolumeID: "px"}}, "pxd.portworx.com", "px"},
	} {
		pv := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: c.source, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}}}
		pv.Name = "p"
		csi, err := volumes.CSI(pv)
		if err != nil || csi == nil || csi.Spec.CSI.Driver != c.driver || csi.Spec.CSI.VolumeHandle != c.handle {
			t.Errorf("%s: %+v, %v", name, csi, err)
		}
	}
	csi, err := volumes.InlineCSI(&corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-2"}}}, "ns")
	if err != nil || csi.Spec.CSI.VolumeHandle != "vol-2" {
		t.Errorf("inline: %+v, %v", csi, err)
	}
	for _, v := range []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}, {VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "d"}}}} {
		if csi, err := volumes.InlineCSI(&v, "ns"); csi != nil || err != nil {
			t.Errorf("%+v: %+v, %v", v, csi, err)
		}
	}
	if csi, err := volumes.CSI(&corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}}}); csi != nil || err != nil {
		t.Errorf("NFS: %+v, %v", csi, err)
	}
}

// The names are upstream's: attachers and workers compute them too.
func TestNames(t *testing.T) {
	if name := volumes.UniqueName("d.example.com", "h"); name != "kubernetes.io/csi/d.example.com^h" {
		t.Error(name)
	}
	// printf hdn | sha256sum
	if name := volumes.AttachmentName("d", "h", "n"); name != "csi-9072ed11cc1acb5fa433a877ff339b6311d013f33bddd1d0092711a8ace5b16d" {
		t.Error(name)
	}
}

func TestWhichVolumesAreFenced(t *testing.T) {
	const once, many, pod = corev1.ReadWriteOnce, corev1.ReadWriteMany, corev1.ReadWriteOncePod
	nfs := corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}
	affinity := func(key string, values ...string) *corev1.VolumeNodeAffinity {
		return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}}}}}
	}
	for name, c := range map[string]struct {
		source   corev1.PersistentVolumeSource
		modes    []corev1.PersistentVolumeAccessMode
		affinity *corev1.VolumeNodeAffinity
		fenced   bool
	}{
		"once":            {nfs, []corev1.PersistentVolumeAccessMode{once}, nil, true},
		"pod":             {nfs, []corev1.PersistentVolumeAccessMode{pod}, nil, true},
		"many":            {nfs, []corev1.PersistentVolumeAccessMode{once, many}, nil, false},
		"no modes":        {nfs, nil, nil, false},
		"local":           {corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{}}, []corev1.PersistentVolumeAccessMode{once}, affinity(corev1.LabelHostname, "a"), false},
		"local, shared":   {corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{}}, []corev1.PersistentVolumeAccessMode{once}, affinity(corev1.LabelHostname, "a", "b"), true},
		"host path":       {corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{}}, []corev1.PersistentVolumeAccessMode{once}, nil, false},
		"of a node":       {nfs, []corev1.PersistentVolumeAccessMode{once}, affinity(corev1.LabelHostname, "a"), false},
		"of two nodes":    {nfs, []corev1.PersistentVolumeAccessMode{once}, affinity(corev1.LabelHostname, "a", "b"), true},
		"of a zone":       {nfs, []corev1.PersistentVolumeAccessMode{once}, affinity(corev1.LabelTopologyZone, "a"), true},
		"without a limit": {nfs, []corev1.PersistentVolumeAccessMode{once}, &corev1.VolumeNodeAffinity{}, true},
	} {
		pv := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: c.source, AccessModes: c.modes, NodeAffinity: c.affinity}}
		if volumes.Fenced(pv) != c.fenced {
			t.Errorf("%s: %v", name, !c.fenced)
		}
	}
}
