package registry_test

import (
	"bytes"
	"math/rand"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/fuzzer"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	apitesting "k8s.io/kubernetes/pkg/api/testing"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
)

// TestSplicedEqualsEncoded: stored bytes with a resource version inserted are those of the object, decoded and encoded with it.
func TestSplicedEqualsEncoded(t *testing.T) {
	spliced := 0
	for _, k := range builtin.Kinds().Kinds() {
		filler := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(apitesting.FuzzerFuncs, extensions.Funcs), rand.NewSource(2), registry.Codecs)
		for _, version := range []string{"7", "12345678901234567890"} {
			for range 20 {
				internal, err := k.ToInternal(k.New())
				if err != nil {
					t.Fatal(err)
				}
				filler.Fill(internal)
				obj, err := k.FromInternal(internal)
				if err != nil {
					t.Fatal(err)
				}
				obj.SetResourceVersion("")
				value, err := k.Store(obj)
				if err != nil {
					t.Fatal(err)
				}
				// Decoded and stored again: values in maps that are nil are empty then.
				if obj, err = k.Load(value); err != nil {
					t.Fatal(err)
				}
				if value, err = k.Store(obj); err != nil {
					t.Fatal(err)
				}
				s, ok := k.Splice(value, version)
				if ok != (k.StoredAs == nil) {
					t.Fatalf("spliced: %v", ok)
				}
				if !ok {
					continue
				}
				spliced++
				loaded, err := k.Load(value)
				if err != nil {
					t.Fatal(err)
				}
				loaded.SetResourceVersion(version)
				want, err := registry.MarshalProto(loaded)
				if err != nil {
					t.Fatal(err)
				}
				if got := s.Append(nil); !bytes.Equal(got, want) || len(got) != s.Size() {
					t.Fatalf("%d bytes (size %d), want %d", len(got), s.Size(), len(want))
				}
				meta, err := k.Meta(value)
				if err != nil {
					t.Fatal(err)
				}
				meta.SetResourceVersion(version)
				if want, err = meta.Marshal(); err != nil {
					t.Fatal(err)
				}
				if got := s.Metadata().Append(nil); !bytes.Equal(got, want) || len(got) != s.Metadata().Size() {
					t.Fatalf("%s: metadata of %d bytes (size %d), want %d", k.Kind, len(got), s.Metadata().Size(), len(want))
				}
			}
		}
	}
	if spliced < 1000 {
		t.Errorf("only %d objects were spliced", spliced)
	}
}

// TestDamagedBytesAreNotSpliced: whatever is stored, nothing is read beyond it.
func TestDamagedBytesAreNotSpliced(t *testing.T) {
	pods, _ := builtin.Kinds().ByGroupResource("", "pods")
	value, err := pods.Store(pods.New())
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewSource(3))
	for range 20000 {
		damaged := bytes.Clone(value[:random.Intn(len(value)+1)])
		for range random.Intn(4) {
			if len(damaged) > 0 {
				damaged[random.Intn(len(damaged))] = byte(random.Intn(256))
			}
		}
		if s, ok := pods.Splice(damaged, "1"); ok && len(s.Append(nil)) != s.Size() {
			t.Fatalf("%q", damaged)
		}
	}
	for _, damaged := range []string{"", "k8s\x00", "k8s\x00\x12\x01\x0a", "k8s\x00\x12\x02\x0a\x00"} {
		if _, ok := pods.Splice([]byte(damaged), "1"); ok {
			t.Errorf("%q was spliced", damaged)
		}
	}
}

// TestAListsParts are the message that upstream's types encode.
func TestAListsParts(t *testing.T) {
	pods, _ := builtin.Kinds().ByGroupResource("", "pods")
	list := pods.NewList()
	meta := metav1.ListMeta{ResourceVersion: "9", Continue: "x"}
	list.(metav1.ListInterface).SetResourceVersion("9")
	list.(metav1.ListInterface).SetContinue("x")
	raw, err := registry.MarshalProto(list)
	if err != nil {
		t.Fatal(err)
	}
	gvk := pods.GVK()
	gvk.Kind += "List"
	want := registry.Envelope(gvk, raw)
	head, err := meta.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if got := append(registry.ListHead(pods.GVK(), head, 0), registry.ListTail...); !bytes.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// What is put into one buffer is what upstream's serializer encodes.
func TestEnvelopesAreUpstreams(t *testing.T) {
	gvk := corev1.SchemeGroupVersion.WithKind("ConfigMap")
	serializer := protobuf.NewSerializer(registry.Scheme, registry.Scheme)
	for _, size := range []int{0, 1, 100, 127, 128, 5000, 1 << 20} {
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": strings.Repeat("x", size)}}
		obj.GetObjectKind().SetGroupVersionKind(gvk)
		want, err := runtime.Encode(serializer, obj)
		if err != nil {
			t.Fatal(err)
		}
		whole, raw, err := registry.MarshalEnveloped(obj, gvk)
		if err != nil || !bytes.Equal(whole, want) {
			t.Errorf("%d: %d bytes, want %d; %v", size, len(whole), len(want), err)
		}
		if !bytes.Equal(registry.Envelope(gvk, raw), want) {
			t.Errorf("%d: the raw bytes in an envelope are others", size)
		}
	}
}
