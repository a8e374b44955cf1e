package audit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func policyFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"

func TestABadPolicyIsRefusedWithFileFieldAndFix(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"empty", "", []string{"apiVersion, kind: must be audit.k8s.io/v1 and Policy"}},
		{"another version", "apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]", []string{"must be audit.k8s.io/v1 and Policy"}},
		{"another kind", "apiVersion: audit.k8s.io/v1\nkind: Event\n", []string{"must be audit.k8s.io/v1 and Policy"}},
		{"no YAML", head + "rules: [", []string{"is not a Policy of audit.k8s.io/v1"}},
		{"a text for a list", head + "rules: all", []string{"is not a Policy of audit.k8s.io/v1", "rules"}},
		{"no rules", head, []string{"rules: must have at least one"}},
		{"no level", head + "rules: [{verbs: [get]}]", []string{"rules[0].level: Required value: must be one of None, Metadata, Request, RequestResponse"}},
		{"a level that there is not", head + "rules: [{level: None}, {level: Loud}]", []string{`rules[1].level: Unsupported value: "Loud"`, `"Metadata"`}},
		{"a misspelt field", head + "omitStage: [RequestReceived]\nrules: [{level: Metadata, verb: [get]}]", []string{`unknown field "omitStage"`, `unknown field "rules[0].verb"`, "https://"}},
		{"a field twice", head + "rules: [{level: None, level: Metadata}]", []string{"level", "already set"}},
		{"a stage that there is not", head + "omitStages: [Begun]\nrules: [{level: None}]", []string{"omitStages[0]", "RequestReceived"}},
		{"a path without a slash", head + "rules: [{level: None, nonResourceURLs: [healthz]}]", []string{"rules[0].nonResourceURLs[0]", "must begin with a '/'"}},
		{"a wildcard within", head + `rules: [{level: None, nonResourceURLs: ["/*/a"]}]`, []string{"must be the final character"}},
		{"paths and resources", head + `rules: [{level: None, nonResourceURLs: ["/a"], namespaces: [a]}]`, []string{"rules[0].nonResourceURLs", "cannot apply to both"}},
		{"a group with a version", head + `rules: [{level: None, resources: [{group: apps/v1}]}]`, []string{"rules[0].resources.group"}},
		{"names without resources", head + `rules: [{level: None, resources: [{resourceNames: [a]}]}]`, []string{"rules[0].resources.resourceNames", "requires at least one resource"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := policyFile(t, c.text)
			_, err := LoadPolicy(path)
			if err == nil {
				t.Fatal("was taken")
			}
			for _, want := range append(c.want, path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
		})
	}
	if _, err := LoadPolicy(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}

func TestTheFirstRuleThatMatchesCounts(t *testing.T) {
	p, err := LoadPolicy(policyFile(t, head+`
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch]}
- {level: None, nonResourceURLs: ["/healthz*", /version]}
- {level: Metadata, resources: [{group: "", resources: [secrets, configmaps, serviceaccounts/token]}]}
- {level: Request, namespaces: [kube-system], omitManagedFields: false, resources: [{group: apps, resources: ["deployments/*"]}]}
- {level: RequestResponse, userGroups: [devs], resources: [{group: "*", resources: ["*/status", pods], resourceNames: [a]}], omitStages: [ResponseStarted]}
- {level: Metadata, userGroups: ["system:authenticated"]}
`))
	if err != nil {
		t.Fatal(err)
	}
	who := func(name string, groups ...string) user.Info { return &user.DefaultInfo{Name: name, Groups: groups} }
	of := func(u user.Info, verb, group, resource, subresource, namespace, name string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: verb, APIGroup: group, Resource: resource, Subresource: subresource, Namespace: namespace, Name: name, ResourceRequest: true}
	}
	path := func(u user.Info, path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: "get", Path: path}
	}
	joe := who("joe", "devs", user.AllAuthenticated)
	for _, c := range []struct {
		of     authorizer.AttributesRecord
		level  audit.Level
		stages int
		omits  bool
	}{
		{of(who("system:kube-proxy", user.AllAuthenticated), "watch", "", "pods", "", "", ""), audit.LevelNone, 1, true},
		{of(who("system:kube-proxy", user.AllAuthenticated), "list", "", "pods", "", "", ""), audit.LevelMetadata, 1, true},
		{path(joe, "/healthz/etcd"), audit.LevelNone, 1, true},
		{path(joe, "/versions"), audit.LevelMetadata, 1, true},
		{of(joe, "get", "", "secrets", "", "default", "s"), audit.LevelMetadata, 1, true},
		{of(joe, "create", "", "serviceaccounts", "token", "default", "s"), audit.LevelMetadata, 1, true},
		{of(joe, "update", "apps", "deployments", "scale", "kube-system", "s"), audit.LevelRequest, 1, false},
		{of(joe, "get", "", "pods", "", "default", "a"), audit.LevelRequestResponse, 2, true},
		{of(joe, "get", "", "pods", "log", "default", "a"), audit.LevelMetadata, 1, true},
		{of(joe, "update", "x", "things", "status", "default", "a"), audit.LevelRequestResponse, 2, true},
		{of(who("", user.AllUnauthenticated), "get", "", "pods", "", "default", "a"), audit.LevelNone, 1, true},
		{of(nil, "get", "", "pods", "", "default", "a"), audit.LevelNone, 1, true},
	} {
		got := p.EvaluatePolicyRule(&c.of)
		if got.Level != c.level || len(got.OmitStages) != c.stages || got.OmitManagedFields != c.omits {
			t.Errorf("%+v: %+v, want %s, %d stages omitted, managed fields omitted: %v", c.of, got, c.level, c.stages, c.omits)
		}
	}
}

// TestTheExampleOfTheDocumentation loads the policy of docs/audit.md.
func TestTheExampleOfTheDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```yaml file=audit.yaml\n")
	example, _, ok := strings.Cut(example, "```")
	if !ok {
		t.Fatal("there is no example")
	}
	p, err := LoadPolicy(policyFile(t, example))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		verb, group, resource, subresource, path string
		level                                    audit.Level
	}{
		{"get", "", "secrets", "", "", audit.LevelMetadata},
		{"update", "", "secrets", "", "", audit.LevelMetadata},
		{"create", "", "serviceaccounts", "token", "", audit.LevelMetadata},
		{"get", "", "pods", "exec", "", audit.LevelMetadata},
		{"create", "", "pods", "portforward", "", audit.LevelMetadata},
		{"get", "", "pods", "", "", audit.LevelNone},
		{"watch", "apps", "deployments", "", "", audit.LevelNone},
		{"patch", "apps", "deployments", "scale", "", audit.LevelRequest},
		{"create", "", "events", "", "", audit.LevelNone},
		{"get", "", "", "", "/readyz", audit.LevelNone},
		{"get", "", "", "", "/apis/apps/v1", audit.LevelNone},
		{"post", "", "", "", "/kontiki/v1/tokens", audit.LevelRequest},
	} {
		got := p.EvaluatePolicyRule(&authorizer.AttributesRecord{Verb: c.verb, APIGroup: c.group, Resource: c.resource, Subresource: c.subresource, Path: c.path,
			ResourceRequest: c.path == "", User: &user.DefaultInfo{Name: "joe"}})
		if got.Level != c.level || !got.OmitManagedFields {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}
