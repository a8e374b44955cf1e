package configrollout_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/configrollout"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/deployment"
	"github.com/kontiki/kontiki/controller/replicaset"
	"github.com/kontiki/kontiki/controller/statefulset"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
}

func start(t testing.TB, options ...controllertest.Option) *bed {
	t.Helper()
	b := &bed{harness.New(t), t, controllertest.NewRecorder()}
	controllertest.StartKubelet(t, b.Client, options...)
	silent := controllertest.NewRecorder()
	controllertest.Run(t, b.Client, append(configrollout.New(b.Client, b.recorder),
		deployment.New(b.Client, silent), replicaset.NewReplicaSets(b.Client, silent), statefulset.New(b.Client, silent))...)
	controllertest.Create(t, b.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}, Data: map[string]string{"k": "one"}})
	controllertest.Create(t, b.Client, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Data: map[string][]byte{"p": []byte("one")}})
	return b
}

var app = map[string]string{"app": "x"}

// template refers to the ConfigMap app, the Secret db, and a Secret that need not exist.
func template() corev1.PodTemplateSpec {
	yes := true
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "v1",
			EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "app"}}}}}},
		Volumes: []corev1.Volume{
			{Name: "db", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "db"}}},
			{Name: "more", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "more", Optional: &yes}}},
		},
	}}
}

func (b *bed) deploy(follows string, change ...func(*appsv1.Deployment)) {
	b.t.Helper()
	two := int32(2)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d", Annotations: map[string]string{configrollout.Annotation: follows}},
		Spec: appsv1.DeploymentSpec{Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template()}}
	for _, c := range change {
		c(d)
	}
	controllertest.Create(b.t, b.Client, d)
}

func idOf(t *corev1.PodTemplateSpec) string { return t.Annotations["kontiki.io/config"] }

// complete waits until the deployment is rolled out with another configuration than before, and returns its id.
func (b *bed) complete(before string) string {
	b.t.Helper()
	d := controllertest.Await(b.t, b.Client, "default", "d", "a roll-out of another configuration than "+before, func(d *appsv1.Deployment) bool {
		s := d.Status
		return idOf(&d.Spec.Template) != "" && idOf(&d.Spec.Template) != before && d.Annotations["kontiki.io/config-observed"] == idOf(&d.Spec.Template) &&
			s.ObservedGeneration == d.Generation && s.UpdatedReplicas == 2 && s.Replicas == 2 && s.AvailableReplicas == 2
	})
	return idOf(&d.Spec.Template)
}

func (b *bed) config(value string) {
	b.t.Helper()
	controllertest.Change(b.t, b.Client, "default", "app", func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": value} })
}

func (b *bed) awaitConfig(value string) {
	b.t.Helper()
	controllertest.Await(b.t, b.Client, "default", "app", "the value "+value, func(c *corev1.ConfigMap) bool { return c.Data["k"] == value })
}

func TestAChangeIsRolledOutAndUndoBringsItBack(t *testing.T) {
	b := start(t)
	b.deploy("*")
	first := b.complete("")
	b.config("two")
	second := b.complete(first)
	b.recorder.Await(t, "Normal ConfigurationChanged Rolling out configuration "+second+": configmap/app changed")
	controllertest.Change(t, b.Client, "default", "db", func(s *corev1.Secret) { s.Data = map[string][]byte{"p": []byte("two")} })
	third := b.complete(second)
	// The ids and everything else that is no Secret tell nothing of Secrets.
	client.Each(b.Client.View(), "default", func(c *corev1.ConfigMap) bool {
		if strings.Contains(fmt.Sprint(c.Data, c.BinaryData), "two") && c.Annotations["kontiki.io/config-source"] != "" && c.Annotations["kontiki.io/config-source"] != "configmap/app" {
			t.Errorf("%s contains %v", c.Name, c.Data)
		}
		return true
	})
	// `kubectl rollout undo` writes the template and the annotations of an old ReplicaSet.
	var old *appsv1.ReplicaSet
	for _, rs := range client.List[*appsv1.ReplicaSet](b.Client.View(), "default", nil) {
		if idOf(&rs.Spec.Template) == first {
			old = rs
		}
	}
	controllertest.Change(t, b.Client, "default", "d", func(d *appsv1.Deployment) {
		annotations := map[string]string{"deployment.kubernetes.io/revision": d.Annotations["deployment.kubernetes.io/revision"]}
		for name, value := range old.Annotations {
			if !strings.HasPrefix(name, "deployment.kubernetes.io/") {
				annotations[name] = value
			}
		}
		d.Annotations = annotations
		d.Spec.Template = *old.Spec.Template.DeepCopy()
		delete(d.Spec.Template.Labels, "pod-template-hash")
	})
	b.awaitConfig("one")
	if got := b.complete(third); got != first {
		t.Errorf("configuration %s, it was %s", got, first)
	}
	controllertest.Await(t, b.Client, "default", "db", "the old password", func(s *corev1.Secret) bool { return string(s.Data["p"]) == "one" })
	b.recorder.Await(t, "Normal ConfigurationRestored Restored configuration "+first)
	// Changing it back by hand is a change, to what was there.
	b.config("two")
	if got := b.complete(first); got != second {
		t.Errorf("configuration %s, it was %s", got, second)
	}
}

// TestABadConfigurationIsRolledBack: a change that keeps pods from becoming ready is undone by itself, with the object.
func TestABadConfigurationIsRolledBack(t *testing.T) {
	var good string
	ready := make(chan struct{})
	b := start(t, controllertest.Bad(func(p *corev1.Pod) bool {
		select {
		case <-ready:
			return p.Annotations["kontiki.io/config"] != good
		default:
			return false
		}
	}))
	b.deploy("configmap/app", func(d *appsv1.Deployment) {
		one := int32(1)
		d.Annotations[deployment.RollbackOnDeadline], d.Spec.ProgressDeadlineSeconds = "true", &one
	})
	good = b.complete("")
	close(ready)
	b.config("bad")
	b.recorder.Await(t, "Normal ConfigurationChanged")
	b.awaitConfig("one")
	if got := b.complete(""); got != good {
		t.Errorf("configuration %s, it was %s", got, good)
	}
}

func TestOnlyWhatIsListedIsFollowed(t *testing.T) {
	b := start(t)
	b.deploy(" secret/db , nonsense, pod/x")
	first := b.complete("")
	b.config("two")
	controllertest.Change(t, b.Client, "default", "db", func(s *corev1.Secret) { s.Labels = map[string]string{"a": "b"} }) // not its data
	controllertest.Change(t, b.Client, "default", "db", func(s *corev1.Secret) { s.Data = map[string][]byte{"p": []byte("two")} })
	b.complete(first)
	if n := len(client.List[*appsv1.ReplicaSet](b.Client.View(), "default", nil)); n > 3 { // the one before the first configuration, too
		t.Errorf("%d templates", n)
	}
	for _, e := range b.recorder.Events("Normal ConfigurationChanged") {
		if !strings.HasSuffix(e, ": secret/db changed") {
			t.Error(e)
		}
	}
}

// TestWhatIsRestoredIsOfTheSameKind: a ConfigMap that poses as a snapshot of a Secret is ignored.
func TestWhatIsRestoredIsOfTheSameKind(t *testing.T) {
	b := start(t)
	b.deploy("secret/db")
	first := b.complete("")
	d, _ := client.Get[*appsv1.Deployment](b.Client.View(), "default", "d")
	controllertest.Create(t, b.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "forged",
		Annotations:     map[string]string{"kontiki.io/config-id": "forged", "kontiki.io/config-source": "secret/db"},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
		BinaryData: map[string][]byte{"p": []byte("forged")}})
	controllertest.Change(t, b.Client, "default", "d", func(d *appsv1.Deployment) { d.Spec.Template.Annotations["kontiki.io/config"] = "forged" })
	if got := b.complete("forged"); got != first {
		t.Errorf("configuration %s, it was %s", got, first)
	}
	if s, _ := client.Get[*corev1.Secret](b.Client.View(), "default", "db"); string(s.Data["p"]) != "one" {
		t.Errorf("the Secret contains %s", s.Data["p"])
	}
}

func TestTheNumberOfReferencesIsLimited(t *testing.T) {
	b := start(t)
	var list []string
	for i := range 51 {
		list = append(list, fmt.Sprint("configmap/c", i))
	}
	b.deploy(strings.Join(list, ","))
	b.recorder.Await(t, "Warning TooManyReferences Configuration is not followed: 51 ConfigMaps and Secrets, at most 50 are allowed")
}

// TestOptionalObjects: one that appears is a change. It is not deleted when its absence is rolled back to.
func TestOptionalObjects(t *testing.T) {
	b := start(t)
	b.deploy("*")
	first := b.complete("")
	controllertest.Create(t, b.Client, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "more"}, Data: map[string][]byte{"q": []byte("1")}})
	second := b.complete(first)
	controllertest.Change(t, b.Client, "default", "d", func(d *appsv1.Deployment) { d.Spec.Template.Annotations["kontiki.io/config"] = first })
	b.recorder.Await(t, "Normal ConfigurationRestored Restored configuration "+first)
	if got := b.complete(first); got != second {
		t.Errorf("configuration %s, that of the objects is %s", got, second)
	}
	if _, ok := client.Get[*corev1.Secret](b.Client.View(), "default", "more"); !ok {
		t.Error("the object was deleted")
	}
}

// TestAMissingObjectIsWaitedFor: pods could not start without it.
func TestAMissingObjectIsWaitedFor(t *testing.T) {
	b := start(t)
	b.deploy("*")
	first := b.complete("")
	if err := b.Client.Delete(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}}); err != nil {
		t.Fatal(err)
	}
	controllertest.Change(t, b.Client, "default", "db", func(s *corev1.Secret) { s.Data = nil })
	controllertest.Create(t, b.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}, Data: map[string]string{"k": "two"}})
	b.complete(first)
	if events := b.recorder.Events("Normal ConfigurationChanged"); len(events) != 1 || !strings.HasSuffix(events[0], ": configmap/app changed, secret/db changed") {
		t.Errorf("events %q", events)
	}
}

// TestImmutableObjectsAreNotRestored: what pods get is what counts.
func TestImmutableObjectsAreNotRestored(t *testing.T) {
	b := start(t)
	b.deploy("configmap/app")
	first := b.complete("")
	b.config("two")
	second := b.complete(first)
	controllertest.Change(t, b.Client, "default", "app", func(c *corev1.ConfigMap) {
		yes := true
		c.Immutable = &yes
	})
	controllertest.Change(t, b.Client, "default", "d", func(d *appsv1.Deployment) { d.Spec.Template.Annotations["kontiki.io/config"] = first })
	b.recorder.Await(t, "Warning ConfigurationNotRestored Cannot restore configuration "+first)
	if got := b.complete(first); got != second {
		t.Errorf("configuration %s, that of the object is %s", got, second)
	}
}

func TestStatefulSetsAndTheirHistory(t *testing.T) {
	b := start(t)
	one := int32(1)
	controllertest.Create(t, b.Client, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: map[string]string{configrollout.Annotation: "*"}},
		Spec: appsv1.StatefulSetSpec{Replicas: &one, RevisionHistoryLimit: &one, Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template()}})
	ids := []string{""}
	for _, value := range []string{"one", "two", "three", "four"} {
		b.config(value)
		set := controllertest.Await(t, b.Client, "default", "web", "a roll-out for "+value, func(s *appsv1.StatefulSet) bool {
			return idOf(&s.Spec.Template) != ids[len(ids)-1] && s.Status.ObservedGeneration == s.Generation && s.Status.ReadyReplicas == 1 && s.Status.CurrentRevision == s.Status.UpdateRevision
		})
		ids = append(ids, idOf(&set.Spec.Template))
	}
	// Snapshots without a revision are deleted.
	controllertest.AwaitView(t, b.Client, []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}, &appsv1.StatefulSet{}}, func(v client.View) string {
		kept := map[string]bool{}
		client.Each(v, "default", func(c *corev1.ConfigMap) bool {
			if id := c.Annotations["kontiki.io/config-id"]; id != "" {
				kept[id] = true
			}
			return true
		})
		if kept[ids[1]] || !kept[ids[3]] || !kept[ids[4]] {
			return fmt.Sprintf("snapshots %v of %v", kept, ids)
		}
		return ""
	})
}

// TestANewWorkloadIsRolledOutOnce, with the id of its configuration from the beginning; and all the same if that does not exist.
func TestANewWorkloadIsRolledOutOnce(t *testing.T) {
	b := start(t)
	b.deploy("*")
	b.complete("")
	count := func() (n int) {
		client.Each(b.Client.View(), "default", func(rs *appsv1.ReplicaSet) bool {
			n++
			if idOf(&rs.Spec.Template) == "" {
				t.Errorf("%s has no configuration", rs.Name)
			}
			return true
		})
		return n
	}
	if n := count(); n != 1 {
		t.Errorf("%d ReplicaSets", n)
	}
	now := time.Now()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now), Annotations: map[string]string{configrollout.Annotation: "configmap/none"}}}
	if wait := configrollout.Pending(d, &d.Spec.Template, now); wait <= 0 || wait > 5*time.Second {
		t.Errorf("it waits %v", wait)
	}
	if wait := configrollout.Pending(d, &d.Spec.Template, now.Add(5*time.Second)); wait != 0 {
		t.Errorf("it waits %v more", wait)
	}
	d.Annotations = nil
	if wait := configrollout.Pending(d, &d.Spec.Template, now); wait != 0 {
		t.Errorf("without the annotation it waits %v", wait)
	}
}
