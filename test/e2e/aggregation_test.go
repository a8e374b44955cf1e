package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/testcert"
)

const extensionServer = `
apiVersion: v1
kind: Secret
metadata: {name: extension, namespace: %[1]s}
type: kubernetes.io/tls
data: {tls.crt: %[2]s, tls.key: %[3]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: extension, namespace: %[1]s}
spec:
  replicas: 1
  selector: {matchLabels: {app: extension}}
  template:
    metadata: {labels: {app: extension}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: kontiki/tools:1
        imagePullPolicy: IfNotPresent
        command: [tools, extend, /tls]
        env: [{name: FRONT_PROXY_CA, value: %[4]q}]
        readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
        volumeMounts: [{name: tls, mountPath: /tls}]
      volumes: [{name: tls, secret: {secretName: extension}}]
---
apiVersion: v1
kind: Service
metadata: {name: extension, namespace: %[1]s}
spec: {selector: {app: extension}, ports: [{port: 443, targetPort: 8443}]}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.tools.example.com}
spec:
  group: tools.example.com
  version: v1
  caBundle: %[2]s
  groupPriorityMinimum: 1000
  versionPriority: 10
  service: {namespace: %[1]s, name: extension}
`

const externalMetrics = `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.external.metrics.k8s.io}
spec:
  group: external.metrics.k8s.io
  version: v1beta1
  caBundle: %[2]s
  groupPriorityMinimum: 1000
  versionPriority: 10
  service: {namespace: %[1]s, name: extension}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: scaled, namespace: %[1]s}
spec:
  replicas: 1
  selector: {matchLabels: {app: scaled}}
  template:
    metadata: {labels: {app: scaled}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: kontiki/tools:1, imagePullPolicy: IfNotPresent, command: [tools, sleep]}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: scaled, namespace: %[1]s}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: scaled}
  minReplicas: 1
  maxReplicas: 5
  metrics: [{type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: "10"}}}]
`

const notesPath = "/apis/tools.example.com/v1/namespaces/default/notes"

// TestExtensionAPIServerInAPod: each master passes requests on to an extension API server that runs as a pod, which knows the masters by their
// certificate and the user by the headers. kubectl finds its resources, and watches stream. When its pod is gone, its API service is not available
// and requests are answered so; when it is back, they are served again.
func TestExtensionAPIServerInAPod(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	cert, key := testcert.Base64(testcert.SelfSigned(t, "extension."+ns+".svc"))
	ca := kubectl(t, "-n", "kube-system", "get", "configmap", "extension-apiserver-authentication", "-o", `jsonpath={.data.requestheader-client-ca-file}`)
	t.Cleanup(func() {
		if _, err := kontiki("kubectl", "delete", "apiservice", "v1.tools.example.com", "v1beta1.external.metrics.k8s.io", "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	apply(t, fmt.Sprintf(extensionServer, ns, cert, key, ca))
	kubectl(t, "wait", "--for=condition=Available", "apiservice/v1.tools.example.com", "--timeout=90s")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var through []rest.Interface
	for i := range masters {
		master := fmt.Sprint("master-", i+1)
		config, err := clientcmd.BuildConfigFromFlags("", env.Kubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		if config.Dial, err = env.DialFrom(master); err != nil {
			t.Fatal(err)
		}
		config.Host = "https://127.0.0.1:6443"
		set, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		client := set.Discovery().RESTClient()
		through = append(through, client)
		await.That(t, master+" passes requests on", func() error { return whoAmI(ctx, client) })
		await.That(t, master+" has the resource in its discovery", func() error {
			_, lists, err := set.Discovery().ServerGroupsAndResources()
			for _, list := range lists {
				if list.GroupVersion == "tools.example.com/v1" && len(list.APIResources) == 1 && list.APIResources[0].Kind == "Note" {
					return nil
				}
			}
			return fmt.Errorf("it does not: %v", err)
		})
		watchNotes(ctx, t, client, master)
	}
	if out := kubectl(t, "api-resources", "--api-group=tools.example.com", "--cached=false"); !strings.Contains(out, "nt") || !strings.Contains(out, "Note") {
		t.Error(out)
	}
	if out := kubectl(t, "-n", "default", "get", "nt", "whoami", "-o", "jsonpath={.spec.groups}"); !strings.Contains(out, "system:masters") {
		t.Error(out)
	}
	if out := kubectl(t, "-n", "default", "get", "notes.tools.example.com"); !strings.Contains(out, "whoami") {
		t.Error(out)
	}
	if out := kubectl(t, "get", "apiservice", "v1.tools.example.com", "v1.apps"); !strings.Contains(out, ns+"/extension") || !strings.Contains(out, "Local") {
		t.Error(out)
	}

	// An autoscaler reads its metric: 30 are 10 for each of 3 pods.
	apply(t, fmt.Sprintf(externalMetrics, ns, cert))
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.desiredReplicas}=3", "hpa/scaled", "--timeout=120s")

	kubectl(t, "-n", ns, "scale", "deployment/extension", "--replicas=0")
	kubectl(t, "wait", "--for=condition=Available=False", "apiservice/v1.tools.example.com", "--timeout=60s")
	if reason := kubectl(t, "get", "apiservice", "v1.tools.example.com", "-o", `jsonpath={.status.conditions[?(@.type=="Available")].reason}`); reason != "MissingEndpoints" {
		t.Errorf("the reason is %q", reason)
	}
	for i, client := range through {
		await.That(t, fmt.Sprintf("master-%d says that it is not available", i+1), func() error {
			err := client.Get().AbsPath(notesPath).MaxRetries(0).Do(ctx).Error()
			if !apierrors.IsServiceUnavailable(err) {
				return fmt.Errorf("got %v", err)
			}
			return nil
		})
	}
	kubectl(t, "get", "pods") // discovery goes on without it
	kubectl(t, "-n", ns, "scale", "deployment/extension", "--replicas=1")
	kubectl(t, "wait", "--for=condition=Available", "apiservice/v1.tools.example.com", "--timeout=90s")
	for i, client := range through {
		await.That(t, fmt.Sprintf("master-%d passes requests on again", i+1), func() error { return whoAmI(ctx, client) })
	}
}

// whoAmI returns why an extension API server does not know the administrator.
func whoAmI(ctx context.Context, client rest.Interface) error {
	body, err := client.Get().AbsPath(notesPath+"/whoami").SetHeader("X-Remote-User", "mallory").Do(ctx).Raw()
	if err != nil {
		return err
	}
	var note struct {
		Spec struct {
			User          string
			Groups        []string
			Authorization []string
		}
	}
	if err := json.Unmarshal(body, &note); err != nil {
		return err
	}
	if s := note.Spec; s.User == "" || s.User == "mallory" || !strings.Contains(strings.Join(s.Groups, " "), "system:masters") || len(s.Authorization) > 0 {
		return fmt.Errorf("it is told %s", body)
	}
	return nil
}

// watchNotes fails the test unless a watch sends each note as it is created.
func watchNotes(ctx context.Context, t *testing.T, client rest.Interface, name string) {
	t.Helper()
	stream, err := client.Get().AbsPath(notesPath).Param("watch", "1").Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	lines := bufio.NewReader(stream)
	for _, want := range []string{"whoami", name} {
		line, err := lines.ReadString('\n')
		if err != nil || !strings.Contains(line, `"name":"`+want+`"`) {
			t.Fatalf("%s: want %s: %q, %v", name, want, line, err)
		}
		if want == "whoami" {
			code := 0
			body := fmt.Sprintf(`{"kind":"Note","apiVersion":"tools.example.com/v1","metadata":{"name":%q,"namespace":"default"}}`, name)
			if err := client.Post().AbsPath(notesPath).Body([]byte(body)).SetHeader("Content-Type", "application/json").Do(ctx).StatusCode(&code).Error(); err != nil || code != http.StatusCreated {
				t.Fatalf("%d, %v", code, err)
			}
		}
	}
}
