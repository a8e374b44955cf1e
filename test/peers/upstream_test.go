package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/devcluster"
)

// TestUpstreamsSchedulerAndControllerManager runs a cluster whose duties are carried out by upstream's programs: every controller of the
// workloads API, namespaces, garbage collection, quotas and disruption budgets, through a change of the leader.
func TestUpstreamsSchedulerAndControllerManager(t *testing.T) {
	programs := os.Getenv("UPSTREAM")
	if programs == "" { // they take 20 minutes to build, and the other tests of this package do not need them
		t.Skip("UPSTREAM must name the directory of upstream's programs; `make peers` does it")
	}
	c, err := devcluster.Start(t.Output(), 3, 2, "--server-arg=--duties=none")
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error("stop the cluster:", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, c.Config.CAData, 0o644); err != nil {
		t.Fatal(err)
	}
	startProgram(t, filepath.Join(programs, "kube-scheduler"), "--kubeconfig="+c.Kubeconfig(), "--secure-port=0", "--v=0")
	startProgram(t, filepath.Join(programs, "kube-controller-manager"), "--kubeconfig="+c.Kubeconfig(), "--secure-port=0", "--v=0",
		"--use-service-account-credentials", "--root-ca-file="+ca,
		// Nodes write no leases here: their health is known from their sessions and from gossip.
		"--controllers=*,-node-lifecycle-controller")

	ctx := t.Context()
	const namespace = "peers"
	if _, err := c.Set.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The root CA publisher and the controller of service accounts are the controller manager's.
	await.That(t, "the namespace to get what pods need", func() error {
		_, err := c.Set.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		_, caErr := c.Set.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return errors.Join(err, caErr)
	})
	w := workloads{t, c, namespace}
	w.create("before")
	w.settle("before")

	leader, err := c.Leader()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := c.Pid(leader)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await.That(t, "another master to answer", func() error {
		_, err := c.Set.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return err
	})
	w.create("after")
	w.settle("after")
	w.disrupt("after")

	// Dependents go with their owner, and all with the namespace.
	if err := c.Set.AppsV1().Deployments(namespace).Delete(ctx, "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the garbage collection of the deployment", func() error {
		pods, err := c.Set.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=before,kind=deployment"})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(pods.Items))
		}
		return err
	})
	if err := c.Set.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the namespace to be gone", func() error {
		_, err := c.Set.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it exists: %v", err)
	})
}

// workloads creates one object of each kind of the workloads API, and waits for what becomes of them.
type workloads struct {
	t         *testing.T
	c         *devcluster.Cluster
	namespace string
}

func (w workloads) must(what string, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

func template(name, kind, command string, restart corev1.RestartPolicy) corev1.PodTemplateSpec {
	grace := int64(0)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name, "kind": kind}},
		Spec: corev1.PodSpec{RestartPolicy: restart, TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{
			Name: "main", Image: "docker.io/library/busybox:latest", ImagePullPolicy: corev1.PullNever, Command: []string{"sh", "-c", command},
		}}},
	}
}

func (w workloads) create(name string) {
	w.t.Helper()
	ctx, options, set := w.t.Context(), metav1.CreateOptions{}, w.c.Set
	meta := metav1.ObjectMeta{Name: name, Namespace: w.namespace}
	selector := func(kind string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name, "kind": kind}}
	}
	const run = "sleep 3600"
	two := int32(2)
	_, err := set.AppsV1().Deployments(w.namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
		Replicas: &two, Selector: selector("deployment"), Template: template(name, "deployment", run, corev1.RestartPolicyAlways)}}, options)
	w.must("create the Deployment", err)
	_, err = set.AppsV1().StatefulSets(w.namespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
		Replicas: &two, Selector: selector("statefulset"), ServiceName: name, Template: template(name, "statefulset", run, corev1.RestartPolicyAlways)}}, options)
	w.must("create the StatefulSet", err)
	_, err = set.AppsV1().DaemonSets(w.namespace).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
		Selector: selector("daemonset"), Template: template(name, "daemonset", run, corev1.RestartPolicyAlways)}}, options)
	w.must("create the DaemonSet", err)
	_, err = set.BatchV1().Jobs(w.namespace).Create(ctx, &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{
		Completions: &two, Template: template(name, "job", "true", corev1.RestartPolicyNever)}}, options)
	w.must("create the Job", err)
	_, err = set.CoreV1().Services(w.namespace).Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name, "kind": "deployment"}, Ports: []corev1.ServicePort{{Port: 80}}}}, options)
	w.must("create the Service", err)
	both := intstr.FromInt32(2)
	_, err = set.PolicyV1().PodDisruptionBudgets(w.namespace).Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: meta, Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: selector("deployment"), MinAvailable: &both}}, options)
	w.must("create the PodDisruptionBudget", err)
	_, err = set.CoreV1().ResourceQuotas(w.namespace).Create(ctx, &corev1.ResourceQuota{ObjectMeta: meta, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{"count/configmaps": resource.MustParse("3")}}}, options)
	w.must("create the ResourceQuota", err)
}

// settle waits until every controller has done its work.
func (w workloads) settle(name string) {
	w.t.Helper()
	ctx, set, get := w.t.Context(), w.c.Set, metav1.GetOptions{}
	check := func(what string, read func() (done bool, state any, err error)) {
		w.t.Helper()
		await.That(w.t, what, func() error {
			done, state, err := read()
			if err == nil && !done {
				err = fmt.Errorf("its status is %+v", state)
			}
			return err
		})
	}
	check("the Deployment", func() (bool, any, error) {
		d, err := set.AppsV1().Deployments(w.namespace).Get(ctx, name, get)
		return d.Status.AvailableReplicas == 2 && d.Status.ObservedGeneration == d.Generation, d.Status, err
	})
	check("the StatefulSet", func() (bool, any, error) {
		s, err := set.AppsV1().StatefulSets(w.namespace).Get(ctx, name, get)
		return s.Status.AvailableReplicas == 2, s.Status, err
	})
	check("the DaemonSet", func() (bool, any, error) {
		d, err := set.AppsV1().DaemonSets(w.namespace).Get(ctx, name, get)
		return d.Status.NumberAvailable == 2, d.Status, err
	})
	check("the Job", func() (bool, any, error) {
		j, err := set.BatchV1().Jobs(w.namespace).Get(ctx, name, get)
		return j.Status.Succeeded == 2 && j.Status.CompletionTime != nil, j.Status, err
	})
	check("the endpoints of the Service", func() (bool, any, error) {
		slices, err := set.DiscoveryV1().EndpointSlices(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + name})
		if err != nil || len(slices.Items) != 1 {
			return false, slices, err
		}
		return len(slices.Items[0].Endpoints) == 2, slices.Items[0].Endpoints, nil
	})
	check("the PodDisruptionBudget", func() (bool, any, error) {
		b, err := set.PolicyV1().PodDisruptionBudgets(w.namespace).Get(ctx, name, get)
		return b.Status.CurrentHealthy == 2 && b.Status.DesiredHealthy == 2, b.Status, err
	})
	check("the ResourceQuota", func() (bool, any, error) {
		q, err := set.CoreV1().ResourceQuotas(w.namespace).Get(ctx, name, get)
		used := q.Status.Used["count/configmaps"]
		return used.Value() == 1, q.Status, err // kube-root-ca.crt
	})
}

// disrupt evicts a pod of a Deployment that has none to spare: the budget's status, which upstream's controller keeps, decides.
func (w workloads) disrupt(name string) {
	w.t.Helper()
	ctx, pods := w.t.Context(), w.c.Set.CoreV1().Pods(w.namespace)
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "kind=deployment,app=" + name})
	w.must("list pods", err)
	err = pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: list.Items[0].Name, Namespace: w.namespace}})
	if !apierrors.IsTooManyRequests(err) {
		w.t.Errorf("an eviction that the budget does not allow: %v", err)
	}
}

// startProgram starts a program, which ends with the test. Its last output is shown if the test fails.
func startProgram(t *testing.T, path string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		select {
		case err := <-ended:
			t.Errorf("%s ended: %v", filepath.Base(path), err)
		default:
			cancel()
			<-ended
		}
		cancel()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(path), out.text())
		}
	})
}

// tail keeps the last output of a program.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailSize = 16 << 10

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if extra := w.buf.Len() - 2*tailSize; extra > 0 {
		w.buf.Next(extra + tailSize)
	}
	return len(p), nil
}

func (w *tail) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
