// Package localpath names what masters and workers agree on about volumes of the provisioner kontiki.io/local-path: a folder on one
// worker, which the controller asks for with a PersistentVolume, and of which the worker reports what it has done with it.
package localpath

const (
	// Provisioner is the provisioner in a StorageClass, and the value of the annotation pv.kubernetes.io/provisioned-by.
	Provisioner = "kontiki.io/local-path"
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

// NodeOf returns the node of a volume with these annotations; "" if it is not of this provisioner.
func NodeOf(annotations map[string]string) string {
	if annotations[ProvisionedBy] != Provisioner {
		return ""
	}
	return annotations[Node]
}

// ToRemove says whether the folder of a volume with a reclaim policy and a phase is to be removed: it is the volume's policy, and its claim
// is gone. A volume that somebody deletes while it is bound is removed when its claim is gone.
func ToRemove(policy, phase string, deleted bool) bool {
	return policy == "Delete" && (phase == "Released" || phase == "Failed" || deleted && phase != "Bound")
}
