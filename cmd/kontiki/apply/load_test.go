package apply

import (
	"strings"
	"testing"
)

// names returns the kinds and names of the objects that were read.
func names(t *testing.T, text string) string {
	t.Helper()
	objects, err := load([]string{"-"}, strings.NewReader(text))
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	var found []string
	for _, o := range objects {
		found = append(found, o.GetAPIVersion()+" "+o.GetKind()+" "+o.GetName())
	}
	return strings.Join(found, ", ")
}

func TestEveryObjectOfAManifestIsRead(t *testing.T) {
	one := func(name string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `"}}`
	}
	const both = "v1 ConfigMap a, v1 ConfigMap b"
	for name, text := range map[string]string{
		"JSON after JSON":      one("a") + "\n" + one("b") + "\n",
		"JSON and YAML":        one("a") + "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n",
		"YAML like JSON":       "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n--- # next\n" + one("b"),
		"a list":               `{"apiVersion":"v1","kind":"List","items":[` + one("a") + `,` + one("b") + `]}`,
		"a list in a list":     `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"List","items":[` + one("a") + `]},` + one("b") + `]}`,
		"a typed list":         `{"apiVersion":"v1","kind":"ConfigMapList","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`,
		"a list without any":   one("a") + "\n---\napiVersion: v1\nkind: List\n---\n" + one("b"),
		"documents of nothing": "---\n# nothing\n---\n" + one("a") + "\n---\n\n---\n" + one("b") + "\n---\n",
	} {
		if got := names(t, text); got != both {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestManifestsThatSayTwoThingsAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: a}\ndata: {k: b}\n":         `document 1: error converting YAML to JSON: yaml: unmarshal errors:` + "\n" + `  line 5: key "data" already set`,
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}} and more`:                    "document 1: ",
		`{"apiVersion":"v1","kind":"ConfigMap","kind":"Secret","metadata":{"name":"a"}}`:             `key "kind" already set`,
		`{"apiVersion":"v1","kind":"List","items":{}}`:                                               "document 1: List: items must be a list",
		`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"ConfigMap"},null]}`:    "document 1: List: items[1] is not an object",
		`{"apiVersion":"v1","kind":"List","items":[{"metadata":{"name":"a"}}]}`:                      "document 1: List: items[0]: apiVersion and kind must be given",
		`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"List","items":[{}]}]}`: "document 1: List: items[0]: List: items[0]: apiVersion and kind",
		"---\napiVersion: v1\nkind: List\n---\n- a\n":                                                "document 2: ",
	} {
		if objects, err := load([]string{"-"}, strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %s; %v", text, err, want, objects)
		}
	}
}
