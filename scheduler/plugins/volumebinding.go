package plugins

import (
	"fmt"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// VolumeBinding refuses pods with PersistentVolumeClaims as volumes, which nothing binds yet.
type VolumeBinding struct{}

// Name returns the plugin's name.
func (VolumeBinding) Name() string { return "VolumeBinding" }

// PreFilter refuses a pod with claims.
func (VolumeBinding) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	for _, volume := range p.Spec.Volumes {
		reason := ""
		switch {
		case volume.PersistentVolumeClaim != nil:
			reason = fmt.Sprintf("persistentvolumeclaim %q not found", volume.PersistentVolumeClaim.ClaimName)
		case volume.Ephemeral != nil:
			reason = fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", p.Name+"-"+volume.Name)
		default:
			continue
		}
		return nil, framework.Refuse(framework.UnschedulableAndUnresolvable, "VolumeBinding", reason)
	}
	return nil, nil
}
