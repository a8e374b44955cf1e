package peers

import (
	"context"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
)

// shop is a chart with what charts usually have: a role and its binding, a configuration, a workload, hooks and a test.
var shop = map[string]string{
	"Chart.yaml":  "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
	"values.yaml": "greeting: hello\nreplicas: 1\n",
	"templates/access.yaml": `apiVersion: v1
kind: ServiceAccount
metadata: {name: {{ .Release.Name }}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: {{ .Release.Name }}}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: {{ .Release.Name }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .Release.Name }}}
subjects:
- {kind: ServiceAccount, name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}
`,
	"templates/config.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {greeting: {{ .Values.greeting | quote }}}
`,
	"templates/front.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      serviceAccountName: {{ .Release.Name }}
      containers:
      - {name: c, image: docker.io/kontiki/tools:1, imagePullPolicy: Never, command: [sleep, "3600"]}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
`,
	"templates/hook.yaml": `apiVersion: v1
kind: Pod
metadata:
  name: {{ .Release.Name }}-prepare-{{ .Release.Revision }}
  annotations: {"helm.sh/hook": "pre-install,pre-upgrade", "helm.sh/hook-delete-policy": hook-succeeded}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: docker.io/kontiki/tools:1, imagePullPolicy: Never, command: ["true"]}
`,
	"templates/tests/test.yaml": `apiVersion: v1
kind: Pod
metadata:
  name: {{ .Release.Name }}-test
  annotations: {"helm.sh/hook": test, "helm.sh/hook-delete-policy": before-hook-creation}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: docker.io/kontiki/tools:1
    imagePullPolicy: Never
    command: [sh, -c, 'test "$GREETING" = hello']
    env: [{name: GREETING, valueFrom: {configMapKeyRef: {name: {{ .Release.Name }}, key: greeting}}}]
`,
}

func shopChart(t *testing.T) *chart.Chart {
	t.Helper()
	var files []*loader.BufferedFile
	for name, data := range shop {
		files = append(files, &loader.BufferedFile{Name: name, Data: []byte(data)})
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestHelm installs a chart, upgrades it, rolls it back, runs its test and removes it.
func TestHelm(t *testing.T) {
	const namespace, name = "default", "shop"
	ctx := context.Background()
	kubeconfig, in := cluster.Kubeconfig(), namespace
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig, flags.Namespace = &kubeconfig, &in
	config := &action.Configuration{}
	if err := config.Init(flags, namespace, "secret", t.Logf); err != nil {
		t.Fatal(err)
	}
	greeting := func(want string) {
		t.Helper()
		cm, err := cluster.Set.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil || cm.Data["greeting"] != want {
			t.Fatalf("the configuration is %+v, %v, want %q", cm, err, want)
		}
	}
	install := action.NewInstall(config)
	install.ReleaseName, install.Namespace, install.Wait, install.Timeout = name, namespace, true, 2*time.Minute
	installed, err := install.RunWithContext(ctx, shopChart(t), nil)
	if err != nil {
		t.Fatal("install:", err)
	}
	if installed.Info.Status != release.StatusDeployed || installed.Version != 1 {
		t.Errorf("installed: %s, revision %d", installed.Info.Status, installed.Version)
	}
	greeting("hello")
	if _, err := cluster.Set.CoreV1().Pods(namespace).Get(ctx, "shop-prepare-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the hook's pod: %v", err)
	}

	upgrade := action.NewUpgrade(config)
	upgrade.Namespace, upgrade.Wait, upgrade.Timeout = namespace, true, 2*time.Minute
	if _, err := upgrade.RunWithContext(ctx, name, shopChart(t), map[string]any{"greeting": "good morning", "replicas": 2}); err != nil {
		t.Fatal("upgrade:", err)
	}
	greeting("good morning")
	if d, err := cluster.Set.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil || d.Status.ReadyReplicas != 2 {
		t.Errorf("the deployment after the upgrade: %+v, %v", d.Status, err)
	}

	rollback := action.NewRollback(config)
	rollback.Version, rollback.Wait, rollback.Timeout = 1, true, 2*time.Minute
	if err := rollback.Run(name); err != nil {
		t.Fatal("roll back:", err)
	}
	greeting("hello")

	test := action.NewReleaseTesting(config)
	test.Namespace, test.Timeout = namespace, 2*time.Minute
	tested, err := test.Run(name)
	if err != nil {
		t.Fatal("test:", err)
	}
	var log strings.Builder
	if err := test.GetPodLogs(&log, tested); err != nil {
		t.Error("logs of the test:", err)
	}
	history, err := action.NewHistory(config).Run(name)
	if err != nil || len(history) != 3 {
		t.Errorf("history: %d revisions, %v", len(history), err)
	}

	uninstall := action.NewUninstall(config)
	uninstall.Wait, uninstall.Timeout = true, 2*time.Minute
	if _, err := uninstall.Run(name); err != nil {
		t.Fatal("uninstall:", err)
	}
	if _, err := cluster.Set.RbacV1().Roles(namespace).Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the role is left: %v", err)
	}
}
