package journal

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestPathsOfWhatDiffers(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{`{"spec":{"replicas":1}}`, `{"spec":{"replicas":2}}`, "spec.replicas"},
		{`{"metadata":{"resourceVersion":"1","generation":1,"managedFields":[]}}`, `{"metadata":{"resourceVersion":"2","generation":2,"managedFields":[1]}}`, ""},
		{`{"c":[{"name":"a","image":"x"},{"name":"b"}]}`, `{"c":[{"name":"b"},{"name":"a","image":"y"}]}`, "c[a].image"},
		{`{"c":[{"name":"a"}]}`, `{"c":[{"name":"a"},{"name":"b"}]}`, "c[b]"},
		{`{"c":[{"name":"a"},{"name":"a"}]}`, `{"c":[{"name":"a"},{"name":"b"}]}`, "c[1].name"},
		{`{"s":{"conditions":[{"type":"Ready","status":"False"}]}}`, `{"s":{"conditions":[{"type":"Ready","status":"True"}]}}`, "s.conditions[Ready].status"},
		{`{"args":["one"]}`, `{"args":["one","two"]}`, "args"},
		{`{"args":["one"]}`, `{"args":["two"]}`, "args[0]"},
		{`{"c":[{"name":"a"},{"name":"b"}]}`, `{"c":[{"name":"a"}]}`, "c[b]"},
		{`{"a":{"b":1,"c":{"d":1}}}`, `{}`, "a.b a.c"},
		{`{"a":null}`, `{"a":{"b":1}}`, "a.b"},
		{`{"a":null}`, `{"a":{}}`, "a"},
		{`{"a":{"b":1}}`, `{"a":[1]}`, "a"},
	} {
		var before, after map[string]any
		for text, into := range map[string]*map[string]any{c.before: &before, c.after: &after} {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				t.Fatal(err)
			}
		}
		got, more := changedPaths(before, after)
		if strings.Join(got, " ") != c.want || more {
			t.Errorf("%s to %s: %v (more: %t), not %q", c.before, c.after, got, more, c.want)
		}
	}
}

func TestPathsAreBounded(t *testing.T) {
	before, after := map[string]any{}, map[string]any{}
	for i := range 3 * MaxFields {
		after[fmt.Sprintf("%03d%s", i, strings.Repeat("é", 1000))] = "value"
	}
	got, more := changedPaths(before, after)
	if len(got) != MaxFields || !more {
		t.Errorf("%d paths, more: %t", len(got), more)
	}
	for _, path := range got {
		if len(path) > maxPath+len("…") || strings.ContainsRune(path, '�') {
			t.Errorf("a path of %d bytes: %q", len(path), path)
		}
	}
}
