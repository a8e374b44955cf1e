package managed

import (
	"bytes"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// shuffledFields returns a set of n fields of each kind in random order.
func shuffledFields(n int) string {
	var members []string
	for i := range n {
		members = append(members, fmt.Sprintf(`"f:a%05d":{"f:y":{},"f:x":{".":{}},"f:%d":{}}`, i, i),
			fmt.Sprintf(`"k:{\"name\":\"a%05d\"}":{".":{},"f:x":{}}`, i), fmt.Sprintf(`"k:{\"containerPort\":%d,\"protocol\":\"TCP\"}":{}`, i),
			fmt.Sprintf(`"v:%d":{}`, i), fmt.Sprintf(`"i:%d":{}`, i), fmt.Sprintf(`"z:unknown-%d":{}`, i))
	}
	rand.New(rand.NewSource(3)).Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return "{" + strings.Join(members, ",") + "}"
}

func TestLargeSetsOfFieldsAreOrdered(t *testing.T) {
	given := shuffledFields(300)
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: new(metav1.FieldsV1)}}}}
	obj.ManagedFields[0].FieldsV1.SetRawBytes([]byte(given))
	orderFields(obj)
	ordered := obj.ManagedFields[0].FieldsV1.GetRawBytes()
	var want, got fieldpath.Set
	if err := want.FromJSON(strings.NewReader(given)); err != nil {
		t.Fatal(err)
	}
	if err := got.FromJSON(bytes.NewReader(ordered)); err != nil {
		t.Fatal(err)
	}
	if !got.Equals(&want) {
		t.Error("the ordered set is another one")
	}
	canonical, err := want.ToJSON()
	if err != nil {
		t.Fatal(err)
	}
	var fromCanonical fieldpath.Set
	if err := fromCanonical.FromJSON(bytes.NewReader(canonical)); err != nil || !fromCanonical.Equals(&got) {
		t.Error("the ordered set has another encoding", err)
	}
	if first, second := bytes.Index(ordered, []byte(`f:a00007"`)), bytes.Index(ordered, []byte(`f:a00008"`)); first < 0 || second < first {
		t.Error("the fields are not in order")
	}
	for _, invalid := range []string{strings.Repeat(`{"f:a":`, 5000) + "{}" + strings.Repeat("}", 5000), given[:len(given)-1] + `,"f:a":1}`, given[:len(given)-1], given[:len(given)-1] + `,"":{}}`} {
		obj.ManagedFields[0].FieldsV1.SetRawBytes([]byte(invalid))
		orderFields(obj)
		if n := len(obj.ManagedFields[0].FieldsV1.GetRawBytes()); n > 1 {
			t.Errorf("an invalid set of %d bytes is left with %d", len(invalid), n)
		}
	}
}

func BenchmarkOrderFields(b *testing.B) {
	given := []byte(shuffledFields(8000))
	b.SetBytes(int64(len(given)))
	for b.Loop() {
		ordered, err := orderedFields(given)
		if err != nil {
			b.Fatal(err)
		}
		var set fieldpath.Set
		if err := set.FromJSON(bytes.NewReader(ordered)); err != nil {
			b.Fatal(err)
		}
	}
}
