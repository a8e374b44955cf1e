package undelete

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

type lab struct {
	*harness.Harness
	t   *testing.T
	set *kubernetes.Clientset
}

func newLab(t *testing.T) *lab {
	h := harness.New(t)
	return &lab{h, t, h.Clientset()}
}

func (l *lab) run(change func(*Options), names ...string) (out string, err error) {
	l.t.Helper()
	var text bytes.Buffer
	o := Options{Config: l.Config("admin", "system:masters"), Namespace: "default", Names: names, Out: &text, Err: &text, Now: time.Now}
	if change != nil {
		change(&o)
	}
	err = Run(context.Background(), o)
	return text.String(), err
}

func (l *lab) must(change func(*Options), names ...string) string {
	l.t.Helper()
	out, err := l.run(change, names...)
	if err != nil {
		l.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (l *lab) apply(path, manifest string) {
	l.t.Helper()
	err := l.set.RESTClient().Patch(types.ApplyPatchType).AbsPath(path).Param("fieldManager", "people").Body([]byte(manifest)).Do(l.t.Context()).Error()
	l.ok(err)
}

func (l *lab) ok(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in:\n%s", word, text)
		}
	}
}

const settings = `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "labels": {"a": "b"}}, "data": {"colour": "green"}}`

func TestAnObjectIsBroughtBackWithTheOwnersOfItsFields(t *testing.T) {
	l := newLab(t)
	maps := l.set.CoreV1().ConfigMaps("default")
	l.apply("/api/v1/namespaces/default/configmaps/settings", settings)
	before, err := maps.Get(t.Context(), "settings", metav1.GetOptions{})
	l.ok(err)
	l.ok(maps.Delete(t.Context(), "settings", metav1.DeleteOptions{}))
	out := l.must(nil)
	says(t, out, "NAMESPACE", "configmap/settings", "admin", string(before.UID))

	says(t, l.must(func(o *Options) { o.DryRun = true }, "cm/settings"), "configmap/settings undeleted (server dry run)")
	yaml := l.must(func(o *Options) { o.YAML = true }, "configmaps/settings")
	says(t, yaml, "colour: green", "name: settings")
	if strings.Contains(yaml, string(before.UID)) || strings.Contains(yaml, "managedFields") {
		t.Errorf("the manifest is not clean:\n%s", yaml)
	}
	if _, err := maps.Get(t.Context(), "settings", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run created it: %v", err)
	}

	l.ok(l.set.RESTClient().Delete().AbsPath(path, string(before.UID)).Param("dryRun", "All").Do(t.Context()).Error())
	if out := l.must(nil, "configmap/settings"); out != "configmap/settings undeleted\n" {
		t.Errorf("%s", out)
	}
	after, err := maps.Get(t.Context(), "settings", metav1.GetOptions{})
	l.ok(err)
	if after.UID == before.UID || after.Data["colour"] != "green" || after.Labels["a"] != "b" {
		t.Errorf("brought back: %+v", after)
	}
	if len(after.ManagedFields) != 1 || after.ManagedFields[0].Manager != "people" || after.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("managed fields: %+v", after.ManagedFields)
	}
	l.apply("/api/v1/namespaces/default/configmaps/settings", strings.Replace(settings, "green", "red", 1)) // without a conflict
	if out, err := l.run(nil, "configmap/settings"); !errors.Is(err, ErrFailed) || !strings.Contains(out, `configmaps "settings" already exists`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestTheLatestDeletionOfANameIsTaken, and an earlier one by its UID.
func TestTheLatestDeletionOfANameIsTaken(t *testing.T) {
	l := newLab(t)
	maps := l.set.CoreV1().ConfigMaps("default")
	var uids []types.UID
	for i := range 3 {
		m, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"n": fmt.Sprint(i)}}, metav1.CreateOptions{})
		l.ok(err)
		uids = append(uids, m.UID)
		l.ok(maps.Delete(t.Context(), "m", metav1.DeleteOptions{}))
	}
	for arg, want := range map[string]string{"configmap/m": "2", string(uids[0]): "0"} {
		l.must(nil, arg)
		m, err := maps.Get(t.Context(), "m", metav1.GetOptions{})
		l.ok(err)
		if m.Data["n"] != want {
			t.Errorf("%s brought back number %s", arg, m.Data["n"])
		}
		// The deletion that follows must not be the latest one for the next round.
		l.ok(maps.Delete(t.Context(), "m", metav1.DeleteOptions{}))
		m.Data["n"] = "2"
		_, err = maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: m.Data}, metav1.CreateOptions{})
		l.ok(err)
		l.ok(maps.Delete(t.Context(), "m", metav1.DeleteOptions{}))
	}
}

func TestWhatIsNotKept(t *testing.T) {
	l := newLab(t)
	owner := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: "u", Controller: ptr.To(true)}
	pod := func(name string, change func(*corev1.Pod)) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if change != nil {
			change(p)
		}
		created, err := client.Create(t.Context(), l.Client, p)
		l.ok(err)
		if p.Status.Phase != "" {
			created = created.DeepCopy()
			created.Status.Phase = p.Status.Phase
			_, err = client.UpdateStatus(t.Context(), l.Client, created)
			l.ok(err)
		}
		l.ok(l.set.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}))
	}
	pod("alone", nil)
	pod("controlled", func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{owner} })
	pod("finished", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	_, err := l.set.CoreV1().Events("default").Create(t.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "event"}, InvolvedObject: corev1.ObjectReference{Namespace: "default"}}, metav1.CreateOptions{})
	l.ok(err)
	l.ok(l.set.CoreV1().Events("default").Delete(t.Context(), "event", metav1.DeleteOptions{}))
	out := l.must(func(o *Options) { o.AllNamespaces = true })
	says(t, out, "pod/alone")
	for _, not := range []string{"controlled", "finished", "event"} {
		if strings.Contains(out, not) {
			t.Errorf("%s is kept:\n%s", not, out)
		}
	}
	l.must(nil, "pod/alone")
}

// TestAPodThatRanIsKept: its node stops it before it is removed, so it has finished then.
func TestAPodThatRanIsKept(t *testing.T) {
	l := newLab(t)
	pods := l.set.CoreV1().Pods("default")
	ended := func(name string, before bool) {
		p, err := client.Create(t.Context(), l.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
		l.ok(err)
		stop := func(at time.Time) {
			p, err = pods.Get(t.Context(), name, metav1.GetOptions{})
			l.ok(err)
			p.Status.Phase = corev1.PodFailed
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, FinishedAt: metav1.NewTime(at)}}}}
			_, err = client.UpdateStatus(t.Context(), l.Client, p)
			l.ok(err)
		}
		if before {
			stop(time.Now().Add(-10 * time.Second))
		} else {
			p.Status.Phase = corev1.PodRunning
			_, err = client.UpdateStatus(t.Context(), l.Client, p)
			l.ok(err)
		}
		l.ok(pods.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(5))}))
		if !before {
			stop(time.Now())
		}
		if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	ended("ran", false)
	ended("finished", true)
	out := l.must(nil)
	says(t, out, "pod/ran")
	if strings.Contains(out, "pod/finished") {
		t.Errorf("a pod that had finished is kept:\n%s", out)
	}
	l.must(nil, "pod/ran")
}

// TestOwnersOfFieldsOfAKindThatIsOnlyChangedConditionally: a budget is not updated without a resource version.
func TestOwnersOfFieldsOfAKindThatIsOnlyChangedConditionally(t *testing.T) {
	l := newLab(t)
	budgets := l.set.PolicyV1().PodDisruptionBudgets("default")
	l.apply("/apis/policy/v1/namespaces/default/poddisruptionbudgets/b",
		`{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}`)
	l.ok(budgets.Delete(t.Context(), "b", metav1.DeleteOptions{}))
	if out := l.must(nil, "pdb/b"); strings.Contains(out, "warning") {
		t.Errorf("%s", out)
	}
	b, err := budgets.Get(t.Context(), "b", metav1.GetOptions{})
	l.ok(err)
	if len(b.ManagedFields) == 0 || b.ManagedFields[0].Manager != "people" {
		t.Errorf("managed fields: %+v", b.ManagedFields)
	}
}

// TestWhatWasDeletedBeforeManyOthersIsFound, also if one list does not have it.
func TestWhatWasDeletedBeforeManyOthersIsFound(t *testing.T) {
	l := newLab(t)
	defer func(n int) { page = n }(page)
	page = 2
	maps := l.set.CoreV1().ConfigMaps("default")
	for i := range 5 {
		name := fmt.Sprintf("m%d", i)
		_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		l.ok(err)
		l.ok(maps.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	if out := l.must(nil); strings.Count(out, "configmap/m") != 5 {
		t.Errorf("not all are listed once:\n%s", out)
	}
	l.must(nil, "cm/m0")
}

// TestEachSeesWhatItMayList: nobody gets at a deleted object who could not have read it.
func TestEachSeesWhatItMayList(t *testing.T) {
	l := newLab(t)
	_, err := l.set.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "key"}, StringData: map[string]string{"k": "hidden"}}, metav1.CreateOptions{})
	l.ok(err)
	l.apply("/api/v1/namespaces/default/configmaps/settings", settings)
	secret, err := l.set.CoreV1().Secrets("default").Get(t.Context(), "key", metav1.GetOptions{})
	l.ok(err)
	l.ok(l.set.CoreV1().Secrets("default").Delete(t.Context(), "key", metav1.DeleteOptions{}))
	l.ok(l.set.CoreV1().ConfigMaps("default").Delete(t.Context(), "settings", metav1.DeleteOptions{}))
	_, err = client.Create(t.Context(), l.Client, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "maps", Namespace: "default"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list"}}}})
	l.ok(err)
	_, err = client.Create(t.Context(), l.Client, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "maps", Namespace: "default"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "maps"}, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "reader"}}})
	l.ok(err)
	as := func(user string) func(*Options) { return func(o *Options) { o.Config = l.Config(user) } }
	out := l.must(as("reader"))
	says(t, out, "configmap/settings")
	if strings.Contains(out, "secret") {
		t.Errorf("the reader sees:\n%s", out)
	}
	says(t, l.must(as("stranger")), "No deleted objects are kept")
	if out, err := l.run(as("reader"), "configmap/settings"); !errors.Is(err, ErrFailed) || !strings.Contains(out, `User "reader" cannot create resource "configmaps"`) {
		t.Errorf("%v\n%s", err, out)
	}
	for user, want := range map[string]int{"reader": http.StatusForbidden, "": http.StatusUnauthorized} {
		config := l.Config(user)
		if user == "" {
			config = rest.AnonymousClientConfig(config)
		}
		set, err := kubernetes.NewForConfig(config)
		l.ok(err)
		var status int
		data, err := set.RESTClient().Get().AbsPath(path + "/" + string(secret.UID)).Do(t.Context()).StatusCode(&status).Raw()
		if status != want || strings.Contains(string(data), "hidden") {
			t.Errorf("%q: %d %v %s", user, status, err, data)
		}
	}
	// Its copy is encrypted, and is brought back all the same.
	if v, ok := l.Store.View().Get("/deleted-bytes"); !ok || v == nil {
		t.Error("nothing is counted")
	}
	l.must(nil, "secret/key")
	back, err := l.set.CoreV1().Secrets("default").Get(t.Context(), "key", metav1.GetOptions{})
	l.ok(err)
	if string(back.Data["k"]) != "hidden" {
		t.Errorf("brought back: %v", back.Data)
	}
	// Dropping it for good needs the right to delete it.
	forget := func(o *Options) { o.Forget = true }
	out, err = l.run(func(o *Options) { as("reader")(o); forget(o) }, "configmap/settings")
	if !errors.Is(err, ErrFailed) || !strings.Contains(out, `User "reader" cannot delete resource "configmaps"`) {
		t.Errorf("%v\n%s", err, out)
	}
	says(t, l.must(forget, "secret/key", "configmap/settings"), "secret/key forgotten", "configmap/settings forgotten")
	says(t, l.must(nil), "No deleted objects are kept")
	if v, _ := l.Store.View().Get("/deleted-bytes"); kv.Counter(v) != 0 {
		t.Errorf("%d bytes are counted", kv.Counter(v))
	}
}

func TestAllOfANamespace(t *testing.T) {
	l := newLab(t)
	_, err := l.set.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{})
	l.ok(err)
	_, err = l.set.CoreV1().ServiceAccounts("shop").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	l.ok(err)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
	_, err = l.set.AppsV1().Deployments("shop").Create(t.Context(), d, metav1.CreateOptions{})
	l.ok(err)
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
	_, err = l.set.BatchV1().Jobs("shop").Create(t.Context(), j, metav1.CreateOptions{})
	l.ok(err)
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"a": "b"}, Ports: []corev1.ServicePort{{Port: 80}}}}
	service, err := l.set.CoreV1().Services("shop").Create(t.Context(), s, metav1.CreateOptions{})
	l.ok(err)
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "web", UID: service.UID},
		{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "none"}}}}
	_, err = l.set.CoreV1().ConfigMaps("shop").Create(t.Context(), m, metav1.CreateOptions{})
	l.ok(err)
	background := metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}
	l.ok(l.set.CoreV1().ConfigMaps("shop").Delete(t.Context(), "owned", background))
	l.ok(l.set.CoreV1().Services("shop").Delete(t.Context(), "web", background))
	l.ok(l.set.BatchV1().Jobs("shop").Delete(t.Context(), "job", background))
	l.ok(l.set.AppsV1().Deployments("shop").Delete(t.Context(), "web", background))
	l.ok(l.set.CoreV1().Namespaces().Delete(t.Context(), "shop", background))
	ns, err := l.set.CoreV1().Namespaces().Get(t.Context(), "shop", metav1.GetOptions{})
	l.ok(err)
	ns.Spec.Finalizers = nil
	l.ok(l.set.CoreV1().ServiceAccounts("shop").Delete(t.Context(), "default", background))
	_, err = l.set.CoreV1().Namespaces().Finalize(t.Context(), ns, metav1.UpdateOptions{})
	l.ok(err)

	if out, err := l.run(nil, "deploy/web"); err == nil || !strings.Contains(err.Error(), `no deleted deploy/web is kept in namespace "default", but in: shop`) {
		t.Errorf("%v\n%s", err, out)
	}
	all := func(o *Options) { o.All, o.Namespace = true, "shop" }
	says(t, l.must(func(o *Options) { all(o); o.DryRun = true }), "namespace/shop undeleted (server dry run)", "service/web not tried: its namespace does not exist yet")
	out := l.must(all)
	says(t, out, "namespace/shop undeleted", "deployment.apps/web undeleted", "job.batch/job undeleted", "service/web undeleted", "configmap/owned undeleted",
		`warning: configmap/owned: its owner ConfigMap "gone" does not exist`)
	back, err := l.set.CoreV1().Services("shop").Get(t.Context(), "web", metav1.GetOptions{})
	l.ok(err)
	if back.Spec.ClusterIP != service.Spec.ClusterIP {
		t.Errorf("the service's address was %s and is %s", service.Spec.ClusterIP, back.Spec.ClusterIP)
	}
	owned, err := l.set.CoreV1().ConfigMaps("shop").Get(t.Context(), "owned", metav1.GetOptions{})
	l.ok(err)
	if refs := owned.OwnerReferences; len(refs) != 1 || refs[0].UID != back.UID {
		t.Errorf("owners: %+v, not the new service %s", refs, back.UID)
	}
	job, err := l.set.BatchV1().Jobs("shop").Get(t.Context(), "job", metav1.GetOptions{})
	l.ok(err)
	if job.Spec.Selector.MatchLabels["batch.kubernetes.io/controller-uid"] != string(job.UID) {
		t.Errorf("the job selects %v", job.Spec.Selector)
	}
	says(t, l.must(all), "namespace/shop exists", "deployment.apps/web exists")
}

// TestAClaimGetsItsVolumeBack if the volume still exists and refers to the deleted claim.
func TestAClaimGetsItsVolumeBack(t *testing.T) {
	l := newLab(t)
	claim := func(name, volume string) *corev1.PersistentVolumeClaim {
		c, err := l.set.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/bind-completed": "yes", "mine": "yes"}},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume, StorageClassName: ptr.To(""), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity("1Gi")}}},
		}, metav1.CreateOptions{})
		l.ok(err)
		return c
	}
	kept, lost := claim("kept", "v"), claim("lost", "gone")
	_, err := l.set.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: quantity("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/v"}},
		ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: "kept", UID: kept.UID},
	}}, metav1.CreateOptions{})
	l.ok(err)
	for _, c := range []*corev1.PersistentVolumeClaim{kept, lost} {
		c.Finalizers = nil
		_, err := l.set.CoreV1().PersistentVolumeClaims("default").Update(t.Context(), c, metav1.UpdateOptions{})
		l.ok(err)
		l.ok(l.set.CoreV1().PersistentVolumeClaims("default").Delete(t.Context(), c.Name, metav1.DeleteOptions{}))
	}
	says(t, l.must(nil, "pvc/kept", "pvc/lost"), "persistentvolumeclaim/kept undeleted", "warning: persistentvolumeclaim/lost: its volume gone and the data on it are gone")
	back, err := l.set.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "kept", metav1.GetOptions{})
	l.ok(err)
	volume, err := l.set.CoreV1().PersistentVolumes().Get(t.Context(), "v", metav1.GetOptions{})
	l.ok(err)
	if back.Spec.VolumeName != "v" || volume.Spec.ClaimRef.UID != back.UID || back.Annotations["pv.kubernetes.io/bind-completed"] != "" || back.Annotations["mine"] != "yes" {
		t.Errorf("claim %+v, volume's claim %+v", back, volume.Spec.ClaimRef)
	}
	if other, err := l.set.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "lost", metav1.GetOptions{}); err != nil || other.Spec.VolumeName != "" {
		t.Errorf("%v %v", other, err)
	}
}

func TestBadArguments(t *testing.T) {
	l := newLab(t)
	for want, x := range map[string]struct {
		names  []string
		change func(*Options)
	}{
		"either names or --all":             {[]string{"pod/a"}, func(o *Options) { o.All = true }},
		"name it with -n":                   {nil, func(o *Options) { o.All, o.AllNamespaces = true, true }},
		"--since must not be negative":      {nil, func(o *Options) { o.Since = -1 }},
		"name them, or give --all":          {nil, func(o *Options) { o.DryRun = true }},
		`"a/b/c" is not TYPE/NAME`:          {[]string{"a/b/c"}, nil},
		"no deleted pod/x is kept":          {[]string{"pod/x"}, nil},
		`with the UID "x" is kept`:          {[]string{"x"}, nil},
		`no deleted objects of namespace "`: {nil, func(o *Options) { o.All = true }},
	} {
		if out, err := l.run(x.change, x.names...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\n%s", want, err, out)
		}
	}
	set := l.Clientset()
	for query, want := range map[string]int{"?limit=0": http.StatusBadRequest, "?limit=x": http.StatusBadRequest, "/none": http.StatusNotFound, "?limit=10": http.StatusOK} {
		var status int
		_ = set.RESTClient().Get().RequestURI(path + query).Do(t.Context()).StatusCode(&status)
		if status != want {
			t.Errorf("%s: %d", query, status)
		}
	}
}

// TestATransactionIsNotTooLargeForCopies: one that was possible without them is possible.
func TestATransactionIsNotTooLargeForCopies(t *testing.T) {
	l := newLab(t)
	var operations []string
	for i := range 8 {
		_, err := l.set.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("large-", i)},
			Data: map[string]string{"d": strings.Repeat("x", 400<<10)}}, metav1.CreateOptions{})
		l.ok(err)
		operations = append(operations, fmt.Sprintf(`{"delete": {"apiVersion": "v1", "kind": "ConfigMap", "namespace": "default", "name": "large-%d"}}`, i))
	}
	transact := func(dryRun bool, operations ...string) {
		t.Helper()
		body := fmt.Sprintf(`{"dryRun": %v, "operations": [%s]}`, dryRun, strings.Join(operations, ","))
		l.ok(l.set.RESTClient().Post().AbsPath("/kontiki/v1/transactions").SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error())
	}
	transact(false, operations[:2]...)
	says(t, l.must(nil), "configmap/large-0", "configmap/large-1")
	transact(true, operations[2:]...)
	transact(false, operations[2:]...)
	if out := l.must(nil); strings.Contains(out, "large-2") {
		t.Errorf("copies were kept:\n%s", out)
	}
}

func quantity(text string) resource.Quantity { return resource.MustParse(text) }

// TestALaterNamespaceOfTheNameOpensNothing: whoever administers it did not administer the earlier one.
func TestALaterNamespaceOfTheNameOpensNothing(t *testing.T) {
	l := newLab(t)
	namespace := func(create bool) {
		t.Helper()
		if create {
			_, err := l.set.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{})
			l.ok(err)
			_, err = client.Create(t.Context(), l.Client, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "owner", Namespace: "shop"},
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "owner"}, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "owner"}}})
			l.ok(err)
			return
		}
		l.ok(l.set.CoreV1().Namespaces().Delete(t.Context(), "shop", metav1.DeleteOptions{}))
		l.ok(l.set.RbacV1().RoleBindings("shop").Delete(t.Context(), "owner", metav1.DeleteOptions{}))
		ns, err := l.set.CoreV1().Namespaces().Get(t.Context(), "shop", metav1.GetOptions{})
		l.ok(err)
		ns.Spec.Finalizers = nil
		_, err = l.set.CoreV1().Namespaces().Finalize(t.Context(), ns, metav1.UpdateOptions{})
		l.ok(err)
	}
	_, err := client.Create(t.Context(), l.Client, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "owner"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"*"}}}})
	l.ok(err)
	namespace(true)
	_, err = l.set.CoreV1().Secrets("shop").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "key"}, StringData: map[string]string{"k": "hidden"}}, metav1.CreateOptions{})
	l.ok(err)
	l.ok(l.set.CoreV1().Secrets("shop").Delete(t.Context(), "key", metav1.DeleteOptions{}))
	owner := func(o *Options) { o.Config, o.Namespace = l.Config("owner"), "shop" }
	says(t, l.must(func(o *Options) { owner(o); o.YAML = true }, "secret/key"), "name: key")
	namespace(false)
	namespace(true)
	says(t, l.must(owner), "No deleted objects are kept")
	if out, err := l.run(func(o *Options) { owner(o); o.YAML = true }, "secret/key"); err == nil {
		t.Errorf("the later owner reads:\n%s", out)
	}
	says(t, l.must(func(o *Options) { o.Namespace = "shop" }, "secret/key"), "secret/key undeleted")
}
