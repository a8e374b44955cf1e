package client_test

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/api/client"
)

func TestASelectorIsFoundByWhatItSelects(t *testing.T) {
	for selector, want := range map[string]string{
		"a=1": "ns/a=1", "a in (1)": "ns/a=1", "b notin (1),a=1": "ns/a=1", "a in (1,2),c==3": "ns/c=3",
		"a": "ns/", "a!=2": "ns/", "a in (1,2)": "ns/", "": "ns/",
	} {
		parsed, err := labels.Parse(selector)
		if err != nil {
			t.Fatal(err)
		}
		key := client.SelectorKey("ns", parsed)
		if key != want {
			t.Errorf("%q has the key %q, want %q", selector, key, want)
		}
		has := labels.Set{"a": "1", "c": "3"}
		if found := slices.Contains(client.SelectorKeys("ns", has), key); parsed.Matches(has) && !found {
			t.Errorf("%q selects %v and is not found by it", selector, has)
		}
	}
	if key := client.SelectorKey("ns", labels.Nothing()); key != "ns/" {
		t.Errorf("nothing has the key %q", key)
	}
}
