// Package localpath names what masters and workers agree on about volumes that are folders: those of the provisioner kontiki.io/local-path
// on one worker, and those of kontiki.io/nfs on a server. A controller asks for a folder with a PersistentVolume, and a worker reports what
// it has done with it.
package localpath

const (
	// Provisioner is the provisioner in a StorageClass, and the value of the annotation pv.kubernetes.io/provisioned-by.
	Provisioner = "kontiki.io/local-path"
	// NFS is the provisioner of folders on an NFS server. Such a folder is made by the node of the first pod that mounts the volume, and
	// removed by the node that the annotation Node names then.
	NFS = "kontiki.io/nfs"
	// Share is the annotation of a volume of NFS with the share that its folder is in.
	Share = "kontiki.io/nfs-share"
	// Class is the StorageClass that every cluster begins with.
	Class = "local-path"
	// ProvisionedBy is Kubernetes' annotation of a volume with its provisioner.
	ProvisionedBy = "pv.kubernetes.io/provisioned-by"

	// Root is the annotation of a Node with the folder that has the folders of its volumes. The worker sets it.
	Root = "kontiki.io/local-path-root"
	// Node is the annotation of a volume with the name of its node.
	Node = "kontiki.io/local-path-node"
	// State is the annotation of a volume with what its worker has reported: Made or Removed.
	State = "kontiki.io/local-path-state"
	// Quota is the annotation of a volume that says whether its folder is limited to its capacity.
	Quota = "kontiki.io/local-path-quota"
	// Finalizer keeps a volume until its folder is removed.
	Finalizer = "kontiki.io/local-path"

	// Made and Removed are the values of State.
	Made    = "made"
	Removed = "removed"

	// QuotaEnforced is the value of Quota if the file system limits the folder. Otherwise it begins with QuotaMissing.
	QuotaEnforced = "enforced"
	QuotaMissing  = "not enforced: "
)

// NodeOf returns the node that makes or removes the folder of a volume with these annotations; "" if there is none.
func NodeOf(annotations map[string]string) string {
	if by := annotations[ProvisionedBy]; by != Provisioner && by != NFS {
		return ""
	}
	return annotations[Node]
}

// ToRemove says whether the folder of a volume with a reclaim policy and a phase is to be removed: it is the volume's policy, and its claim
// is gone. A volume that somebody deletes while it is bound is removed when its claim is gone.
func ToRemove(policy, phase string, deleted bool) bool {
	return policy == "Delete" && (phase == "Released" || phase == "Failed" || deleted && phase != "Bound")
}
