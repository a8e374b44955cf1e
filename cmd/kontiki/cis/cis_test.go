package cis_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kontiki/kontiki/cmd/kontiki/cis"
)

// info is what a file is like.
type info struct {
	mode     fs.FileMode
	uid, gid uint32
}

func (i info) Name() string       { return "" }
func (i info) Size() int64        { return 0 }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return &syscall.Stat_t{Uid: i.uid, Gid: i.gid} }

// rig is a cluster and a host that pass all that can pass. Tests spoil something of it.
type rig struct {
	*cis.Facts
	files   map[string]info
	configz map[string]string
	objects []runtime.Object
	weak    string
}

// wellConfigured is a worker's configuration with which nothing fails but the limit of processes, which there is not.
const wellConfigured = `{"kubeletconfig":{"authentication":{"anonymous":{"enabled":false}},"authorization":{"mode":"Webhook"},"streamingConnectionIdleTimeout":"4h0m0s","seccompDefault":true,"podPidsLimit":100}}`

func newRig() *rig {
	r := &rig{files: map[string]info{}, configz: map[string]string{"w1": wellConfigured}}
	for path, mode := range map[string]fs.FileMode{
		"/etc/kontiki/config.yaml": 0o600, "/d/server": fs.ModeDir | 0o700, "/d/server/raft": fs.ModeDir | 0o700, "/d/server/admin.kubeconfig": 0o600, "/d/server/identity.json": 0o600,
		"/d/server/member.json": 0o600, "/d/server/token-master": 0o600, "/d/server/token-worker": 0o600, "/d/agent/identity": fs.ModeDir | 0o700, "/d/agent/identity/identity.json": 0o600,
		"/units/kontiki-server.service": 0o600,
	} {
		r.files[path] = info{mode: mode}
	}
	no := false
	for _, name := range []string{"default", "shop", "kube-system"} {
		meta := metav1.ObjectMeta{Namespace: name}
		named := func(n string) metav1.ObjectMeta { m := meta; m.Name = n; return m }
		r.objects = append(r.objects,
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}},
			&corev1.ServiceAccount{ObjectMeta: named("default"), AutomountServiceAccountToken: &no},
			&corev1.ConfigMap{ObjectMeta: named("kube-root-ca.crt")},
			&networkingv1.NetworkPolicy{ObjectMeta: named("all")})
	}
	every := map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"}
	r.objects = append(r.objects,
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.37.2+kontiki.0.1"}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "hollow", Labels: map[string]string{"kontiki.io/hollow": "true"}}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.37.2+kontiki.0.1"}}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin", Labels: every}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin", Labels: every}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects: []rbacv1.Subject{{Kind: "Group", Name: "system:masters"}}})
	r.Facts = &cis.Facts{
		Master: "m1", Host: "m1", AgentDir: "/d/agent", Config: "/etc/kontiki/config.yaml", Units: []string{"/units/kontiki-server.service", "/units/kontiki-agent.service"},
		Flags: map[string]string{
			"data-dir": "/d/server", "anonymous-auth": "false", "authentication-config": "", "enable-admission-plugins": "[DenyServiceExternalIPs,EventRateLimit,AlwaysPullImages]",
			"disable-admission-plugins": "[]", "profiling": "false", "audit-log-path": "/var/log/audit.log", "audit-policy-file": "/etc/kontiki/audit.yaml",
			"audit-log-maxage": "30", "audit-log-maxbackup": "10", "audit-log-maxsize": "100", "request-timeout": "1m0s", "encryption-provider-config": "/etc/kontiki/kms.yaml",
			"enable-bootstrap-token-auth": "false", "admission-control-config-file": "",
		},
		Stat: func(path string) (fs.FileInfo, error) {
			if f, ok := r.files[path]; ok {
				return f, nil
			}
			return nil, fmt.Errorf("stat %s: %w", path, fs.ErrNotExist)
		},
		Configz: func(_ context.Context, node string) ([]byte, error) {
			if text, ok := r.configz[node]; ok {
				return []byte(text), nil
			}
			return nil, errors.New("no answer")
		},
		Weak: func(context.Context) (string, error) { return r.weak, nil },
	}
	return r
}

func (r *rig) answer(t *testing.T) *cis.Report {
	t.Helper()
	r.Client = fake.NewClientset(r.objects...)
	report, err := cis.Answer(t.Context(), r.Facts)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// failing returns the ids that fail.
func failing(r *cis.Report) (ids []string) {
	for _, f := range r.Findings {
		if f.Result == cis.Fail {
			ids = append(ids, f.ID)
		}
	}
	return ids
}

func finding(t *testing.T, r *cis.Report, id string) cis.Finding {
	t.Helper()
	i := slices.IndexFunc(r.Findings, func(f cis.Finding) bool { return f.ID == id })
	if i < 0 {
		t.Fatalf("there is no %s", id)
	}
	return r.Findings[i]
}

// built is what fails in every cluster.
var built = []string{"5.3.1"}

// TestEveryRecommendationIsAnswered: the ids are those of the benchmark, in their order, each with a title and a reason.
func TestEveryRecommendationIsAnswered(t *testing.T) {
	var want []string
	for _, s := range []struct {
		section string
		n       int
	}{{"1.1", 21}, {"1.2", 30}, {"1.3", 7}, {"1.4", 2}, {"2", 7}, {"3.1", 3}, {"3.2", 2}, {"4.1", 10}, {"4.2", 15}, {"4.3", 1}, {"5.1", 13}, {"5.2", 13}, {"5.3", 2}, {"5.4", 2}, {"5.5", 1}, {"5.6", 4}} {
		for i := range s.n {
			want = append(want, fmt.Sprintf("%s.%d", s.section, i+1))
		}
	}
	report := newRig().answer(t)
	var got []string
	total := 0
	for _, f := range report.Findings {
		got = append(got, f.ID)
		if f.Title == "" || f.Reason == "" || !slices.Contains([]cis.Result{cis.Pass, cis.Fail, cis.NotApplicable, cis.Manual}, f.Result) {
			t.Errorf("%+v", f)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("ids %v\nwant %v", got, want)
	}
	for _, n := range report.Summary {
		total += n
	}
	if total != len(want) {
		t.Errorf("the summary counts %d of %d: %v", total, len(want), report.Summary)
	}
	if got := failing(report); !slices.Equal(got, built) {
		t.Errorf("in a cluster that is well configured these fail: %v, want %v", got, built)
	}
}

// TestTheDocumentNamesEveryRecommendation, and nothing else.
func TestTheDocumentNamesEveryRecommendation(t *testing.T) {
	text, err := os.ReadFile("../../../docs/cis.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9.]+) \| ([^|]*) \|`).FindAllStringSubmatch(string(text), -1) {
		rows[m[1]] = strings.TrimSpace(m[2])
	}
	for _, f := range newRig().answer(t).Findings {
		if rows[f.ID] != f.Title {
			t.Errorf("docs/cis.md says %q of %s, want %q", rows[f.ID], f.ID, f.Title)
		}
		delete(rows, f.ID)
	}
	if len(rows) > 0 {
		t.Errorf("docs/cis.md has ids that do not exist: %v", slices.Sorted(maps.Keys(rows)))
	}
}

// TestWhatFails: each thing that is wrong makes its recommendations fail, and no other.
func TestWhatFails(t *testing.T) {
	set := func(flag, value string) func(*rig) { return func(r *rig) { r.Flags[flag] = value } }
	mode := func(path string, mode fs.FileMode) func(*rig) {
		return func(r *rig) { r.files[path] = info{mode: mode} }
	}
	with := func(objects ...runtime.Object) func(*rig) {
		return func(r *rig) { r.objects = append(r.objects, objects...) }
	}
	kubelet := func(old, new string) func(*rig) {
		return func(r *rig) { r.configz["w1"] = strings.ReplaceAll(wellConfigured, old, new) }
	}
	pod := func(namespace string, change func(*corev1.PodSpec)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"}, Spec: corev1.PodSpec{NodeName: "w1", ServiceAccountName: "default", Containers: []corev1.Container{{Name: "c"}}}}
		change(&p.Spec)
		return p
	}
	role := func(verb, group, resource string) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}}}}
	}
	bound := func(to string, subject rbacv1.Subject) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: to}, Subjects: []rbacv1.Subject{subject}}
	}
	everybody := rbacv1.Subject{Kind: "Group", Name: "system:authenticated"}
	namespace := func(labels map[string]string) func(*rig) {
		return func(r *rig) {
			no := false
			r.objects = append(r.objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new", Labels: labels}},
				&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "new", Name: "default"}, AutomountServiceAccountToken: &no},
				&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "new", Name: "kube-root-ca.crt"}},
				&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "new", Name: "all"}})
		}
	}
	podSecurity := func(n int, level string) (ids []string) {
		for i := range n {
			if id := i + 1; id != 11 {
				ids = append(ids, fmt.Sprintf("5.2.%d", id))
			}
		}
		return ids
	}
	for what, c := range map[string]struct {
		spoil func(*rig)
		fail  []string
		found string // in the first of them
	}{
		"configuration for all":     {mode("/etc/kontiki/config.yaml", 0o644), []string{"1.1.1", "4.1.9"}, "mode 0644: chmod 0600"},
		"configuration of somebody": {func(r *rig) { r.files["/etc/kontiki/config.yaml"] = info{mode: 0o600, uid: 1000} }, []string{"1.1.2", "4.1.10"}, "does not belong to root:root"},
		"a link":                    {mode("/d/server/admin.kubeconfig", fs.ModeSymlink|0o777), []string{"1.1.13"}, "is a link"},
		"data for the group":        {mode("/d/server/raft", fs.ModeDir|0o750), []string{"1.1.11"}, "/d/server/raft has mode 0750"},
		"keys for all":              {mode("/d/server/identity.json", 0o644), []string{"1.1.20", "1.1.21"}, "identity.json"},
		"a token for all":           {mode("/d/server/token-worker", 0o644), []string{"1.1.21"}, "token-worker"},
		"a worker's keys":           {mode("/d/agent/identity", fs.ModeDir|0o755), []string{"4.1.5", "4.1.7"}, "/d/agent/identity"},
		"a unit for all":            {mode("/units/kontiki-server.service", 0o644), []string{"4.1.1"}, "kontiki-server.service"},
		"anonymous requests":        {set("anonymous-auth", "true"), []string{"1.2.1"}, ""},
		"plug-ins are off":          {set("enable-admission-plugins", "[]"), []string{"1.2.3", "1.2.9"}, ""},
		"everything is admitted":    {set("enable-admission-plugins", "[AlwaysAdmit,DenyServiceExternalIPs,EventRateLimit]"), []string{"1.2.10"}, ""},
		"plug-ins are switched off": {set("disable-admission-plugins", "[ServiceAccount,NamespaceLifecycle,NodeRestriction]"), []string{"1.2.12", "1.2.13", "1.2.14"}, ""},
		"no Pod Security":           {set("disable-admission-plugins", "[PodSecurity]"), podSecurity(13, ""), ""},
		"profiles":                  {set("profiling", "true"), []string{"1.2.15", "1.3.2", "1.4.1"}, ""},
		"no audit log":              {func(r *rig) { r.Flags["audit-log-path"], r.Flags["audit-policy-file"] = "", "" }, []string{"1.2.16", "3.2.1", "3.2.2"}, ""},
		"a short audit log": {func(r *rig) {
			r.Flags["audit-log-maxage"], r.Flags["audit-log-maxbackup"], r.Flags["audit-log-maxsize"] = "7", "3", "10"
		}, []string{"1.2.17", "1.2.18", "1.2.19"}, ""},
		"weak ciphers":              {func(r *rig) { r.weak = "TLS 1.1" }, []string{"1.2.29"}, ""},
		"no CA":                     {with(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-new"}}), []string{"1.3.5"}, "namespace kube-new"},
		"anonymous at workers":      {kubelet(`"enabled":false`, `"enabled":true`), []string{"4.2.1"}, "w1: anonymous"},
		"everything at workers":     {kubelet("Webhook", "AlwaysAllow"), []string{"4.2.2"}, "AlwaysAllow"},
		"a port for reading":        {kubelet(`"podPidsLimit"`, `"readOnlyPort":10255,"podPidsLimit"`), []string{"4.2.4"}, "port 10255"},
		"idle for ever":             {kubelet("4h0m0s", "0s"), []string{"4.2.5"}, ""},
		"no limit of processes":     {kubelet(`,"podPidsLimit":100`, ""), []string{"4.2.13"}, "no limit"},
		"no seccomp":                {kubelet(`"seccompDefault":true`, `"seccompDefault":false`), []string{"4.2.14"}, "--seccomp-default is off"},
		"an administrator":          {with(bound("cluster-admin", rbacv1.Subject{Kind: "User", Name: "jane"})), []string{"5.1.1"}, "user jane by cluster role binding b"},
		"Secrets for all":           {with(role("get", "", "secrets"), bound("r", everybody)), []string{"5.1.2"}, "group system:authenticated by cluster role binding b (clusterrole r)"},
		"a wildcard":                {with(role("get", "", "*")), []string{"5.1.3"}, "cluster role r"},
		"pods for all":              {with(role("create", "", "pods"), bound("r", everybody)), []string{"5.1.4"}, "system:authenticated"},
		"a default service account": {with(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-x", Name: "default"}}), []string{"5.1.5"}, "kube-x/default: pods get its token"},
		"rights of a default one":   {with(role("list", "", "nodes"), bound("r", rbacv1.Subject{Kind: "ServiceAccount", Namespace: "shop", Name: "default"})), []string{"5.1.5"}, "rights"},
		"a token for nothing": {with(pod("shop", func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}}}}
		})), []string{"5.1.6"}, "pod shop/p"},
		"impersonation for all":             {with(role("impersonate", "", "users"), bound("r", everybody)), []string{"5.1.8"}, ""},
		"volumes for all":                   {with(role("create", "", "persistentvolumes"), bound("r", everybody)), []string{"5.1.9"}, ""},
		"nodes for all":                     {with(role("get", "", "nodes/proxy"), bound("r", everybody)), []string{"5.1.10"}, ""},
		"approval for all":                  {with(role("update", "certificates.k8s.io", "certificatesigningrequests/approval"), bound("r", everybody)), []string{"5.1.11"}, ""},
		"webhooks for all":                  {with(role("patch", "admissionregistration.k8s.io", "mutatingwebhookconfigurations"), bound("r", everybody)), []string{"5.1.12"}, ""},
		"tokens for all":                    {with(role("create", "", "serviceaccounts/token"), bound("r", everybody)), []string{"5.1.13"}, ""},
		"an open namespace":                 {namespace(nil), podSecurity(13, ""), "namespace new"},
		"a namespace that is only baseline": {namespace(map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}), []string{"5.2.6", "5.2.7", "5.2.8", "5.2.10"}, "namespace new"},
		"no network policy": {func(r *rig) {
			namespace(map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})(r)
			r.objects = r.objects[:len(r.objects)-1]
		}, []string{"5.3.2"}, "namespace new"},
		"no seccomp profile": {func(r *rig) {
			kubelet(`"seccompDefault":true`, `"seccompDefault":false`)(r)
			with(pod("shop", func(*corev1.PodSpec) {}))(r)
		}, []string{"4.2.14", "5.6.2"}, ""},
		"the default namespace": {with(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}), []string{"5.6.4"}, "service web"},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig()
			c.spoil(r)
			report := r.answer(t)
			want := slices.Concat(c.fail, built)
			got := failing(report)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, slices.Compact(want)) {
				t.Errorf("these fail: %v, want %v", got, want)
			}
			if first := finding(t, report, c.fail[0]); !strings.Contains(strings.Join(first.Found, "\n"), c.found) {
				t.Errorf("%+v, want %q in what is found", first, c.found)
			}
		})
	}
}

// TestWhatIsManual: what a person has to decide is named, and what could not be looked at does not pass.
func TestWhatIsManual(t *testing.T) {
	secrets := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}}}}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "readers"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "reader"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "shop", Name: "app"}}}
	for what, c := range map[string]struct {
		spoil     func(*rig)
		id, found string
	}{
		"who reads Secrets":               {func(r *rig) { r.objects = append(r.objects, secrets, binding) }, "5.1.2", "service account shop/app by role binding shop/readers (clusterrole reader)"},
		"a worker that does not answer":   {func(r *rig) { r.configz = nil }, "4.2.1", "w1: no answer"},
		"a master of an earlier version":  {func(r *rig) { r.Flags = map[string]string{} }, "1.2.16", ""},
		"a file that cannot be looked at": {func(r *rig) { r.Stat = func(string) (fs.FileInfo, error) { return nil, fs.ErrPermission } }, "1.1.1", ""},
		"defaults of Pod Security in a file": {func(r *rig) {
			r.Flags["admission-control-config-file"] = "/etc/kontiki/admission.yaml"
			r.objects = append(r.objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new"}})
		}, "5.2.2", "namespace new"},
		"keys of Secrets in a file": {func(r *rig) { r.Flags["encryption-provider-config"] = "" }, "1.2.28", ""},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig()
			c.spoil(r)
			if f := finding(t, r.answer(t), c.id); f.Result != cis.Manual || !strings.Contains(strings.Join(f.Found, "\n"), c.found) {
				t.Errorf("%+v", f)
			}
		})
	}
	r := newRig()
	r.files = nil
	if f := finding(t, r.answer(t), "1.1.13"); f.Result != cis.NotApplicable || !strings.Contains(f.Reason, "on this host (m1)") {
		t.Errorf("a host without a master: %+v", f)
	}
}

// TestTheReportIsBounded: a cluster with many violations has a report of a size that can be read.
func TestTheReportIsBounded(t *testing.T) {
	r := newRig()
	for i := range 100 {
		r.objects = append(r.objects, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("s", i)}})
	}
	report := r.answer(t)
	if f := finding(t, report, "5.6.4"); len(f.Found) != 21 || f.Found[20] != "and 80 more" {
		t.Errorf("%d lines, the last %q", len(f.Found), f.Found[len(f.Found)-1])
	}
	var short, long bytes.Buffer
	if err := errors.Join(report.Print(&short, false), report.Print(&long, true)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(short.String(), "5.6.4   FAIL") || strings.Contains(short.String(), " PASS ") || !strings.Contains(long.String(), "1.2.8   PASS") || !strings.Contains(long.String(), "NOT APPLICABLE") {
		t.Errorf("short:\n%s\nlong:\n%s", short.String(), long.String())
	}
}
