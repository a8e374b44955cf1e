package operators

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/testcert"
)

const memcachedOperator = `
apiVersion: v1
kind: Namespace
metadata: {name: memcached-system}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: memcacheds.cache.example.com}
spec:
  group: cache.example.com
  scope: Namespaced
  names: {kind: Memcached, listKind: MemcachedList, plural: memcacheds, singular: memcached}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Available, type: string, jsonPath: '.status.conditions[?(@.type=="Available")].status'}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, format: int32, minimum: 0, maximum: 9}
              image: {type: string, default: "docker.io/kontiki/tools:1"}
          status:
            type: object
            properties:
              nodes: {type: array, items: {type: string}}
              observedGeneration: {type: integer, format: int64}
              conditions:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [type]
                items:
                  type: object
                  required: [type, status, reason, message, lastTransitionTime]
                  properties:
                    type: {type: string}
                    status: {type: string, enum: ["True", "False", Unknown]}
                    reason: {type: string, minLength: 1}
                    message: {type: string}
                    lastTransitionTime: {type: string, format: date-time}
                    observedGeneration: {type: integer, format: int64}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: memcached-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: memcached-operator}
rules:
- {apiGroups: [cache.example.com], resources: [memcacheds], verbs: [get, list, watch]}
- {apiGroups: [cache.example.com], resources: [memcacheds/status], verbs: [get, update, patch]}
- {apiGroups: [cache.example.com], resources: [memcacheds/finalizers], verbs: [update]}
- {apiGroups: [apps], resources: [deployments], verbs: [get, list, watch, create, update, patch, delete]}
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: ["", events.k8s.io], resources: [events], verbs: [create, patch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: memcached-operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: memcached-operator}
subjects: [{kind: ServiceAccount, name: operator, namespace: memcached-system}]
---
apiVersion: v1
kind: Secret
metadata: {name: certificate, namespace: memcached-system}
type: kubernetes.io/tls
data: {tls.crt: %[1]s, tls.key: %[2]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: operator, namespace: memcached-system}
spec:
  replicas: 2
  selector: {matchLabels: {app: operator}}
  template:
    metadata: {labels: {app: operator}}
    spec:
      serviceAccountName: operator
      securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: manager
        image: docker.io/kontiki/memcached-operator:1
        imagePullPolicy: Never
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
        ports: [{name: webhook, containerPort: 9443}]
        readinessProbe: {httpGet: {path: /readyz, port: 8081}, periodSeconds: 1}
        resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 256Mi}}
        volumeMounts: [{name: certificate, mountPath: /certificate, readOnly: true}]
      volumes: [{name: certificate, secret: {secretName: certificate, defaultMode: 0440}}]
---
apiVersion: v1
kind: Service
metadata: {name: webhook, namespace: memcached-system}
spec: {selector: {app: operator}, ports: [{port: 443, targetPort: webhook}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: memcached}
webhooks:
- name: memcached.cache.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  clientConfig:
    caBundle: %[1]s
    service: {name: webhook, namespace: memcached-system, path: /validate-cache-example-com-v1-memcached}
  rules: [{apiGroups: [cache.example.com], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [memcacheds]}]
`

const memcached = `
apiVersion: cache.example.com/v1
kind: Memcached
metadata: {name: %s, namespace: default}
spec: {size: %d}
`

// TestControllerRuntimeOperator installs an operator that is built with controller-runtime, in two replicas. It makes what an object asks for and shows
// it in the object's status, also after the leading replica is gone, and its webhook refuses and warns through each master.
func TestControllerRuntimeOperator(t *testing.T) {
	cert, key := testcert.Base64(testcert.SelfSigned(t, "webhook.memcached-system.svc"))
	manifest := fmt.Sprintf(memcachedOperator, cert, key)
	t.Cleanup(func() {
		if _, err := cluster.RunWith(strings.NewReader(manifest), "kubectl", "delete", "--ignore-not-found", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	logsOnFailure(t, "memcached-system")
	apply(t, manifest)
	kubectl(t, "-n", "memcached-system", "rollout", "status", "deployment/operator", "--timeout=90s")
	ctx := limited(t)
	shows := func(size int, generation string) {
		t.Helper()
		kubectl(t, "wait", "--for=jsonpath={.status.observedGeneration}="+generation, "memcached/cache", "--timeout=60s")
		kubectl(t, "wait", "--for=condition=Available", "memcached/cache", "--timeout=60s")
		kubectl(t, "wait", fmt.Sprintf("--for=jsonpath={.status.conditions[0].message}=%d of %[1]d pods are available", size), "memcached/cache", "--timeout=60s")
		await.That(t, "the status to name the pods", func() error {
			nodes, err := cluster.Run("kubectl", "get", "memcached", "cache", "-o", "jsonpath={.status.nodes[*]}")
			if err != nil {
				return err
			}
			pods, err := cluster.Run("kubectl", "get", "pods", "-l", "memcached=cache", "--sort-by=.metadata.name", "-o", "jsonpath={.items[*].metadata.name}")
			if err == nil && (nodes != pods || len(strings.Fields(pods)) != size) {
				err = fmt.Errorf("the status names %q, the pods are %q", nodes, pods)
			}
			return err
		})
	}

	out, err := feed(ctx, t, "master-1", fmt.Sprintf(memcached, "cache", 1))
	if err != nil || !strings.Contains(out, "Warning: one pod is not highly available") {
		t.Fatalf("create: %v\n%s", err, out)
	}
	shows(1, "1")
	for i := range masters {
		master := fmt.Sprint("master-", i+1)
		out, err := feed(ctx, t, master, fmt.Sprintf(memcached, "even", 2))
		if err == nil || !strings.Contains(out, `The Memcached "even" is invalid: spec.size: Invalid value: 2: it must be odd`) {
			t.Errorf("%s: a size that the webhook refuses: %v\n%s", master, err, out)
		}
		if out, err := through(ctx, t, master, "patch", "memcached", "cache", "--type=merge", "-p", `{"spec":{"image":"other"}}`).CombinedOutput(); err == nil || !strings.Contains(string(out), "spec.image: Forbidden: it may not change") {
			t.Errorf("%s: a change that the webhook refuses: %v\n%s", master, err, out)
		}
	}

	// The other replica carries on.
	lease := kubectl(t, "-n", "memcached-system", "get", "lease", "memcached.example.com", "-o", "jsonpath={.spec.holderIdentity}")
	leader, _, _ := strings.Cut(lease, "_")
	kubectl(t, "-n", "memcached-system", "delete", "pod", leader)
	kubectl(t, "patch", "memcached", "cache", "--type=merge", "-p", `{"spec":{"size":3}}`)
	shows(3, "2")
	if now := kubectl(t, "-n", "memcached-system", "get", "lease", "memcached.example.com", "-o", "jsonpath={.spec.holderIdentity}"); now == lease {
		t.Errorf("the lease is still held by %s, whose pod is deleted", now)
	}
	if out := kubectl(t, "get", "memcacheds"); !strings.Contains(out, "SIZE") || !strings.Contains(out, "True") {
		t.Error("the table is", out)
	}

	// What somebody else changes is put right, and what is owned goes with its owner.
	kubectl(t, "scale", "deployment/cache", "--replicas=0")
	shows(3, "2")
	kubectl(t, "delete", "memcached", "cache")
	kubectl(t, "wait", "--for=delete", "deployment/cache", "--timeout=60s")
}
