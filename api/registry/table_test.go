package registry_test

import (
	"reflect"
	"testing"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
)

func TestTableFindsEveryRow(t *testing.T) {
	table := builtin.Kinds()
	prefixes := map[string]bool{}
	for _, k := range table.Kinds() {
		for name, find := range map[string]func() (*registry.Kind, bool){
			"resource":       func() (*registry.Kind, bool) { return table.ByResource(k.Group, k.Version, k.Resource) },
			"group resource": func() (*registry.Kind, bool) { return table.ByGroupResource(k.Group, k.Resource) },
			"kind":           func() (*registry.Kind, bool) { return table.ByGVK(k.GVK()) },
			"object":         func() (*registry.Kind, bool) { return table.ByObject(k.New()) },
			"type":           func() (*registry.Kind, bool) { return table.ByType(reflect.TypeOf(k.New())) },
		} {
			if found, ok := find(); name == "group resource" && k.Version != k.Versions[0] {
				if !ok || found.Version != k.Versions[0] {
					t.Errorf("%s: the preferred version is not found by %s", k.GVK(), name)
				}
			} else if !ok || found != k {
				t.Errorf("%s is not found by %s", k.GVK(), name)
			}
		}
		if prefixes[k.Prefix()] && k.StoredAs == nil {
			t.Errorf("%s shares its key prefix", k.GVK())
		}
		prefixes[k.Prefix()] = true
		namespace := ""
		if k.Namespaced {
			namespace = "ns"
		}
		if gotNamespace, name := k.SplitKey(k.Key("ns", "a")); gotNamespace != namespace || name != "a" {
			t.Errorf("%s: the key splits into %q, %q", k.GVK(), gotNamespace, name)
		}
	}
	if _, ok := table.ByResource("", "v1", "gadgets"); ok {
		t.Error("an unknown resource is found")
	}
}

func TestCatalog(t *testing.T) {
	c := registry.NewCatalog(registry.NewTable(&registry.Resource{Kind: "ConfigMap", Resource: "configmaps", Namespaced: true}))
	changed := c.Changed()
	first := c.Table()
	c.Update(func(now *registry.Table) *registry.Table {
		if now != first {
			t.Error("the change is not of the present table")
		}
		return registry.NewTable(&registry.Resource{Kind: "ConfigMap", Resource: "configmaps", Namespaced: true}, &registry.Resource{Kind: "Secret", Resource: "secrets", Namespaced: true})
	})
	<-changed
	if _, ok := c.Table().ByGroupResource("", "secrets"); !ok || len(first.Kinds()) != 1 {
		t.Error("the table was not replaced")
	}
}
