package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/bootstrap"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/deployment"
	"github.com/kontiki/kontiki/controller/endpoints"
	"github.com/kontiki/kontiki/controller/eventttl"
	"github.com/kontiki/kontiki/controller/garbage"
	"github.com/kontiki/kontiki/controller/namespace"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
	"github.com/kontiki/kontiki/controller/pods"
	"github.com/kontiki/kontiki/controller/replicaset"
	"github.com/kontiki/kontiki/controller/serviceaccount"
	"github.com/kontiki/kontiki/test/harness"
)

// silent is gossip in which one node dies when the test asks for it.
type silent struct{ dies chan nodelifecycle.Member }

func (s silent) Members() []nodelifecycle.Member {
	return []nodelifecycle.Member{{Name: "n1", State: nodelifecycle.Alive}, {Name: "n2", State: nodelifecycle.Alive}}
}

func (s silent) Next(ctx context.Context) (nodelifecycle.Member, error) {
	select {
	case m := <-s.dies:
		return m, nil
	case <-ctx.Done():
		return nodelifecycle.Member{}, ctx.Err()
	}
}

type cluster struct {
	*harness.Harness
	gossip  silent
	kubelet *controllertest.Kubelet
}

// together runs every controller over a fake kubelet of two nodes.
func together(t *testing.T) *cluster {
	t.Helper()
	h := harness.New(t)
	c := &cluster{Harness: h, gossip: silent{make(chan nodelifecycle.Member, 10)}}
	recorder := controllertest.NewRecorder()
	for _, name := range []string{"n1", "n2"} {
		controllertest.Create(t, h.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}})
	}
	controllertest.Go(t, "bootstrap", func(ctx context.Context) error {
		return bootstrap.Run(ctx, bootstrap.Config{Client: h.Client, ServiceAddress: netip.MustParseAddr("10.96.0.1"),
			Masters: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6443")} }})
	})
	controllertest.Run(t, h.Client, append(nodelifecycle.New(nodelifecycle.Config{
		Client: h.Client, Recorder: recorder, Hints: c.gossip, ProbePause: time.Millisecond,
		Probe: func(context.Context, *corev1.Node) error { return errors.New("no answer") },
	}),
		replicaset.NewReplicaSets(h.Client, recorder), replicaset.NewReplicationControllers(h.Client, recorder),
		deployment.New(h.Client, recorder), endpoints.New(h.Client), namespace.New(h.Client, nil), garbage.New(h.Client, recorder),
		serviceaccount.New(h.Client, func() ([]byte, <-chan struct{}) { return []byte("ca"), nil }), eventttl.New(eventttl.Config{Client: h.Client}))...)
	c.kubelet = controllertest.StartKubelet(t, h.Client)
	return c
}

var app = map[string]string{"app": "x"}

func (c *cluster) deploy(t *testing.T, ns string, tolerate int64) *appsv1.Deployment {
	t.Helper()
	three := int32(3)
	d := controllertest.Create(t, c.Client, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "d"}, Spec: appsv1.DeploymentSpec{
		Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: app}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{
			Containers:  []corev1.Container{{Name: "c", Image: "i"}},
			Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &tolerate}},
		}}}})
	controllertest.Create(t, c.Client, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s"}, Spec: corev1.ServiceSpec{Selector: app, Ports: []corev1.ServicePort{{Port: 80}}}})
	c.routed(t, ns, func(*corev1.Pod) bool { return true })
	return d
}

// routed waits until the service has exactly three ready endpoints, all of them for pods that are not being deleted.
func (c *cluster) routed(t *testing.T, ns string, wanted func(*corev1.Pod) bool) {
	t.Helper()
	controllertest.AwaitView(t, c.Client, []client.Object{&discoveryv1.EndpointSlice{}, &corev1.Pod{}}, func(v client.View) string {
		n := 0
		client.Each(v, ns, func(s *discoveryv1.EndpointSlice) bool {
			if s.Labels[discoveryv1.LabelServiceName] != "s" {
				return true
			}
			for _, e := range s.Endpoints {
				p, ok := client.Get[*corev1.Pod](v, ns, e.TargetRef.Name)
				if *e.Conditions.Ready && ok && pods.Ready(p) && wanted(p) {
					n++
				} else if *e.Conditions.Ready {
					n = -1000
				}
			}
			return true
		})
		if n != 3 {
			return fmt.Sprintf("%d endpoints, want 3", n)
		}
		return ""
	})
}

func TestPodsOfALostNodeAreReplaced(t *testing.T) {
	c := together(t)
	c.deploy(t, "default", 0)
	// n1 is cut off: from now on pods go to n2, and no agent confirms the end of those on n1.
	c.kubelet.Set(controllertest.OnNode(func(*corev1.Pod) string { return "n2" }), controllertest.Keep(func(p *corev1.Pod) bool { return p.Spec.NodeName == "n1" }))
	c.gossip.dies <- nodelifecycle.Member{Name: "n1", State: nodelifecycle.Dead}
	c.routed(t, "default", func(p *corev1.Pod) bool { return p.Spec.NodeName == "n2" })
	left := 0
	client.Each(c.Client.View(), "default", func(p *corev1.Pod) bool {
		if p.Spec.NodeName == "n1" && p.DeletionTimestamp != nil {
			left++
		}
		return true
	})
	if left != 3 {
		t.Errorf("%d pods of the lost node wait for its return, want 3", left)
	}
	controllertest.Await(t, c.Client, "default", "d", "availability, with three terminating", func(d *appsv1.Deployment) bool {
		return d.Status.AvailableReplicas == 3 && d.Status.TerminatingReplicas != nil && *d.Status.TerminatingReplicas == 3
	})
	// Its Node object is deleted: it will not return.
	if err := c.Client.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitView(t, c.Client, []client.Object{&corev1.Pod{}}, func(v client.View) string {
		if n := len(client.List[*corev1.Pod](v, "default", nil)); n != 3 {
			return fmt.Sprintf("%d pods", n)
		}
		return ""
	})
}

func TestADeploymentTakesAllOfItsObjectsAlong(t *testing.T) {
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		t.Run(string(policy), func(t *testing.T) {
			c := together(t)
			d := c.deploy(t, "default", 300)
			if err := c.Client.Delete(context.Background(), d, client.Propagation(policy)); err != nil {
				t.Fatal(err)
			}
			controllertest.AwaitView(t, c.Client, []client.Object{&appsv1.Deployment{}, &appsv1.ReplicaSet{}, &corev1.Pod{}}, func(v client.View) string {
				x, y, z := len(client.List[*appsv1.Deployment](v, "default", nil)), len(client.List[*appsv1.ReplicaSet](v, "default", nil)), len(client.List[*corev1.Pod](v, "default", nil))
				if policy == metav1.DeletePropagationForeground && (x < y || y == 0 && z > 0) {
					t.Errorf("an owner went first: %d deployments, %d sets, %d pods", x, y, z)
				}
				if x+y+z > 0 {
					return fmt.Sprintf("%d deployments, %d sets, %d pods", x, y, z)
				}
				return ""
			})
		})
	}
}

func TestANamespaceEndsWithAllThatRunsInIt(t *testing.T) {
	c := together(t)
	ns := controllertest.Create(t, c.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	controllertest.Await(t, c.Client, "shop", "default", "to be there", func(*corev1.ServiceAccount) bool { return true })
	c.deploy(t, "shop", 300)
	if err := c.Client.Delete(context.Background(), ns); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitGone[*corev1.Namespace](t, c.Client, "", "shop")
	v := c.Client.View()
	for _, kind := range c.Client.Kinds() {
		if kind.Namespaced {
			v.EachMeta(kind, "shop", func(obj *client.Metadata) bool { t.Errorf("left: %s %s", obj.Kind, obj.GetName()); return true })
		}
	}
	// It can be created again.
	controllertest.Create(t, c.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	controllertest.Await(t, c.Client, "shop", "default", "to be there", func(*corev1.ServiceAccount) bool { return true })
	c.deploy(t, "shop", 300)
}
