package journal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/journal"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

// journaled returns an API with a journal in a folder. stop ends the journal, and returns when it has ended.
func journaled(t *testing.T, dir string) (h *harness.Harness, stop func()) {
	t.Helper()
	j, err := journal.Open(journal.Config{Dir: dir, Bytes: journal.DefaultBytes, Age: journal.DefaultAge})
	if err != nil {
		t.Fatal(err)
	}
	h = harness.NewConfigured(t, func(c *apiserver.Config) { c.Journal = j })
	return h, run(t, j, h)
}

func run(t *testing.T, j *journal.Journal, h *harness.Harness) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = j.Run(ctx, h.Objects) // the context's error
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

// read reads the journal as the user of a configuration.
func read(config *rest.Config, query string) (page journal.Page, text string, err error) {
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return page, "", err
	}
	response, err := transport.Get(config.Host + journal.Path + query)
	if err != nil {
		return page, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return page, "", err
	}
	if response.StatusCode != http.StatusOK {
		return page, string(body), fmt.Errorf("%s: %s", response.Status, body)
	}
	return page, string(body), json.Unmarshal(body, &page)
}

// find waits until the page has an entry, and returns it.
func find(t *testing.T, config *rest.Config, query, what string, is func(journal.Entry) bool) (found journal.Entry) {
	t.Helper()
	await.That(t, what, func() error {
		page, text, err := read(config, query)
		if err != nil {
			return err
		}
		for _, e := range page.Items {
			if is(e) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("it is not in the journal: %s", text)
	})
	return found
}

func TestChangesAreRecordedWithTheirFieldsAndManagerButNoValue(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	h, stop := journaled(t, dir)
	set, admin := h.Clientset(), h.Config("admin", "system:masters")
	secret, err := set.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": "value-one"}, Type: corev1.SecretTypeOpaque,
	}, metav1.CreateOptions{FieldManager: "maker"})
	if err != nil {
		t.Fatal(err)
	}
	secret.StringData = map[string]string{"password": "value-two"}
	secret.Annotations = map[string]string{"note": "value-three"}
	if _, err := set.CoreV1().Secrets("default").Update(ctx, secret, metav1.UpdateOptions{FieldManager: "changer"}); err != nil {
		t.Fatal(err)
	}
	if err := set.CoreV1().Secrets("default").Delete(ctx, "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ours := func(what string) func(journal.Entry) bool {
		return func(e journal.Entry) bool { return e.Name == "s" && e.Resource == "secrets" && e.What == what }
	}
	if e := find(t, admin, "", "deleted", ours(journal.Deleted)); e.User != "admin" {
		t.Errorf("who deleted it: %+v", e)
	}
	if e := find(t, admin, "", "created", ours(journal.Created)); e.Manager != "maker" || e.UID != string(secret.UID) || e.Kind != "Secret" {
		t.Errorf("created: %+v", e)
	}
	e := find(t, admin, "?namespace=default&uid="+string(secret.UID), "changed", ours(journal.Changed))
	if e.Manager != "changer" || strings.Join(e.Fields, " ") != "data.password metadata.annotations.note" {
		t.Errorf("changed: %+v", e)
	}
	if e.Time.IsZero() || time.Since(e.Time) > time.Hour {
		t.Errorf("its time is %s", e.Time)
	}
	stop()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range []string{"value-", "dmFsdWUt"} {
			if strings.Contains(string(data), value) {
				t.Errorf("%s contains a value: %s", name, data)
			}
		}
	}
}

func TestEventsAreRecordedWhenTheyOccurAndAtPowersOfTwo(t *testing.T) {
	ctx := context.Background()
	h, _ := journaled(t, t.TempDir())
	set, admin := h.Clientset(), h.Config("admin", "system:masters")
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}, Reason: "Tried", Message: strings.Repeat("long ", 1000)[:1024], Type: "Warning", Count: 1,
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p", UID: "u1"}, Source: corev1.EventSource{Component: "tester"},
	}
	event, err := set.CoreV1().Events("default").Create(ctx, event, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for event.Count < 5 {
		event.Count++
		if event, err = set.CoreV1().Events("default").Update(ctx, event, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	find(t, admin, "?uid=u1", "the fourth", func(e journal.Entry) bool { return e.Count == 4 })
	// What follows in the journal is behind the fifth.
	if _, err := set.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "behind"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	find(t, admin, "", "what follows", func(e journal.Entry) bool { return e.Name == "behind" })
	page, _, err := read(admin, "?uid=u1")
	if err != nil {
		t.Fatal(err)
	}
	var counts []int
	for _, e := range page.Items {
		counts = append(counts, e.Count)
		if e.What != journal.Happened || e.Reason != "Tried" || e.Type != "Warning" || e.Manager != "tester" || e.About == nil || e.About.Name != "p" {
			t.Errorf("%+v", e)
		}
	}
	if fmt.Sprint(counts) != "[4 2 1]" {
		t.Errorf("recorded at the counts %v", counts)
	}
}

func TestAReaderSeesTheChangesOfWhatItMayRead(t *testing.T) {
	ctx := context.Background()
	h, _ := journaled(t, t.TempDir())
	set, admin := h.Clientset(), h.Config("admin", "system:masters")
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: "a"} }
	for _, name := range []string{"a", "b"} {
		if _, err := set.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, cm := range []string{"one", "two"} {
			if _, err := set.CoreV1().ConfigMaps(name).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: cm}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	grant := func(name string, user string, rule rbacv1.PolicyRule) {
		t.Helper()
		if _, err := set.RbacV1().Roles("a").Create(ctx, &rbacv1.Role{ObjectMeta: named(name), Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := set.RbacV1().RoleBindings("a").Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: named(name), RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: name},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: user}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	grant("lists", "lister", rbacv1.PolicyRule{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}})
	grant("gets", "getter", rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"two"}})
	find(t, admin, "", "the last change", func(e journal.Entry) bool { return e.Resource == "rolebindings" && e.Name == "gets" })

	sees := func(user string) string {
		t.Helper()
		page, _, err := read(h.Config(user), "")
		if err != nil {
			t.Fatal(err)
		}
		var seen []string
		for _, e := range page.Items {
			seen = append(seen, e.Resource+" "+e.Namespace+"/"+e.Name)
		}
		return strings.Join(seen, ", ")
	}
	for user, want := range map[string]string{"lister": "configmaps a/two, configmaps a/one", "getter": "configmaps a/two", "nobody": ""} {
		if got := sees(user); got != want {
			t.Errorf("%s sees %q, not %q", user, got, want)
		}
	}
	// A later namespace of the same name, and who may read it, open nothing of the earlier one.
	if err := set.CoreV1().ConfigMaps("a").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	recreate(t, h, "a")
	grant("lists", "lister", rbacv1.PolicyRule{Verbs: []string{"list", "get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}})
	if _, err := set.CoreV1().ConfigMaps("a").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	find(t, admin, "", "the new one", func(e journal.Entry) bool { return e.Name == "new" })
	if got := sees("lister"); got != "configmaps a/new" {
		t.Errorf("after the namespace was created again, lister sees %q", got)
	}
	anonymous := rest.AnonymousClientConfig(admin)
	anonymous.Insecure = true
	if _, _, err := read(anonymous, ""); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a credential: %v", err)
	}
	for _, query := range []string{"?limit=0", "?limit=x", "?limit=5001", "?before=-1"} {
		if _, _, err := read(admin, query); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("%s: %v", query, err)
		}
	}
}

func TestARestartContinuesAndAGapIsSaid(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	h, stop := journaled(t, dir)
	set := h.Clientset()
	create := func(name string) {
		t.Helper()
		if _, err := set.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	again := func() (*journal.Journal, func()) {
		t.Helper()
		j, err := journal.Open(journal.Config{Dir: dir, Bytes: journal.DefaultBytes, Age: journal.DefaultAge})
		if err != nil {
			t.Fatal(err)
		}
		return j, run(t, j, h)
	}
	names := func(j *journal.Journal) (all []string) {
		t.Helper()
		page, err := j.Read(ctx, journal.Query{Limit: 1000}, func(*journal.Entry) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Items {
			if e.What == journal.Missing || e.Resource == "configmaps" {
				all = append(all, e.What+" "+e.Name)
			}
		}
		return all
	}
	holds := func(j *journal.Journal, want string) {
		t.Helper()
		await.That(t, want, func() error {
			if got := strings.Join(names(j), ", "); got != want {
				return fmt.Errorf("it holds %q", got)
			}
			return nil
		})
	}
	create("one")
	find(t, h.Config("admin", "system:masters"), "", "the first", func(e journal.Entry) bool { return e.Name == "one" })
	stop()
	create("two") // while the journal does not run: the history has it
	j, stop := again()
	holds(j, "created two, created one")
	stop()
	create("three")
	create("four")
	h.Store.Compact(h.Store.View().Revision()) // as after a snapshot that was received
	// The last line is cut off, as by a power loss.
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	f, err := os.OpenFile(files[len(files)-1], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"revision":99999999,"time":`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	j, _ = again()
	holds(j, "missing , created two, created one")
	create("five")
	holds(j, "created five, missing , created two, created one")
	page, err := j.Read(ctx, journal.Query{Limit: 2}, func(e *journal.Entry) bool { return e.What == journal.Missing || e.Resource == "configmaps" })
	if err != nil || len(page.Items) != 2 || page.Before == 0 {
		t.Fatalf("%+v, %v", page, err)
	}
	page, err = j.Read(ctx, journal.Query{Limit: 2, Before: page.Before}, func(e *journal.Entry) bool { return e.What == journal.Missing || e.Resource == "configmaps" })
	if err != nil || len(page.Items) != 2 || page.Items[0].Name != "two" || page.Items[1].Name != "one" {
		t.Fatalf("the second page: %+v, %v", page, err)
	}
}

func TestChangesThatComeTooFastAreCountedAndSaidToBeMissing(t *testing.T) {
	ctx := context.Background()
	h := harness.New(t)
	set := h.Clientset()
	j, err := journal.Open(journal.Config{Dir: t.TempDir(), Bytes: journal.DefaultBytes, Age: journal.DefaultAge, Burst: 10, PerSecond: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 { // before the journal runs, so that it reads all of them at once
		if _, err := set.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("many-", i)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	run(t, j, h)
	await.That(t, "what is missing", func() error {
		// The next change that is recorded says it.
		if _, err := set.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "next-"}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		page, err := j.Read(ctx, journal.Query{Limit: 1000}, func(*journal.Entry) bool { return true })
		if err != nil {
			return err
		}
		recorded := 0
		for _, e := range page.Items {
			if e.What != journal.Missing {
				recorded++
			} else if e.Count > 0 && e.Since != nil {
				return nil
			}
		}
		return fmt.Errorf("%d changes are recorded, and none is said to be missing", recorded)
	})
}

func TestTheFilesStayWithinTheirBounds(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	const most = 64 << 10
	h := harness.New(t)
	set := h.Clientset()
	j, err := journal.Open(journal.Config{Dir: dir, Bytes: most, Age: journal.DefaultAge})
	if err != nil {
		t.Fatal(err)
	}
	run(t, j, h)
	size := func() (bytes int64) {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if info, err := f.Info(); err == nil { // it may be removed meanwhile
				bytes += info.Size()
			}
		}
		return bytes
	}
	last := ""
	for round := range 12 {
		for i := range 50 {
			last = fmt.Sprintf("%d-%d-%s", round, i, strings.Repeat("n", 200))
			if _, err := set.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: last}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		await.That(t, "the newest change", func() error {
			page, err := j.Read(ctx, journal.Query{Limit: 1}, func(*journal.Entry) bool { return true })
			if err != nil || len(page.Items) == 0 || page.Items[0].Name != last {
				return fmt.Errorf("it is not there: %+v, %v", page, err)
			}
			return nil
		})
		if n := size(); n > most+32<<10 { // a batch of entries is written into one file
			t.Fatalf("the files have %d bytes", n)
		}
	}
	if n := size(); n < most/4 {
		t.Errorf("only %d bytes are kept", n)
	}
}

// recreate removes a namespace with what is in it from the store, as when it has been deleted, and creates another one of its name.
func recreate(t *testing.T, h *harness.Harness, name string) {
	t.Helper()
	ctx := context.Background()
	var ops []kv.Op
	h.Store.View().Range("/", "", func(v *kv.Version) bool {
		if strings.HasPrefix(v.Key, "/core/namespaces/") && strings.HasSuffix(v.Key, "/"+name) || strings.Contains(v.Key, "/"+name+"/") {
			ops = append(ops, kv.Op{Key: v.Key, Delete: true})
		}
		return true
	})
	if result, err := h.Store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops}); err != nil || result.Failed != nil || len(ops) < 3 {
		t.Fatal(len(ops), result.Failed, err)
	}
	if _, err := h.Clientset().CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}
