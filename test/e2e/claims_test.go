package e2e_test

import "testing"

func TestClaimsAreBoundToVolumes(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	t.Cleanup(func() { kubectl(t, "delete", "pv", "e2e-small", "e2e-large") })
	apply(t, `
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-large}
spec: {capacity: {storage: 10Gi}, accessModes: [ReadWriteOnce], storageClassName: e2e, persistentVolumeReclaimPolicy: Retain, hostPath: {path: /srv/large}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-small}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: e2e, persistentVolumeReclaimPolicy: Retain, hostPath: {path: /srv/small}}
`)
	kubectl(t, "wait", "--for=jsonpath={.status.phase}=Available", "pv/e2e-small", "pv/e2e-large", "--timeout=30s")
	apply(t, in(ns, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: e2e, resources: {requests: {storage: 500Mi}}}
`))
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.phase}=Bound", "pvc/data", "--timeout=30s")
	contains(t, kubectl(t, "-n", ns, "get", "pvc", "data"), "Bound", "e2e-small", "1Gi", "RWO")
	kubectl(t, "-n", ns, "delete", "pvc", "data", "--timeout=30s")
	kubectl(t, "wait", "--for=jsonpath={.status.phase}=Released", "pv/e2e-small", "--timeout=30s")
}
