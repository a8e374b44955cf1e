package server

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/await"
)

// snapshotContents is what `kontiki snapshot inspect -o json` prints.
type snapshotContents struct {
	Revision uint64         `json:"revision"`
	Objects  uint64         `json:"objects"`
	File     string         `json:"file"`
	Bytes    int64          `json:"bytes"`
	Kinds    []snapshotKind `json:"kinds"`
}

type snapshotKind struct {
	Resource string `json:"resource"`
	Objects  int    `json:"objects"`
	Bytes    int64  `json:"bytes"`
}

func TestInspectCountsWhatIsThere(t *testing.T) {
	m := startMaster(t)
	for i := range 7 {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cm-", i)}, Data: map[string]string{"x": strings.Repeat("x", 1000*i)}}
		if _, err := m.admin.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s-", i)}, Data: map[string][]byte{"x": []byte("hush")}}
		if _, err := m.admin.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "state")
	// The controllers and the cluster itself may write at any time: a snapshot between two equal views is one of these.
	var got snapshotContents
	var view kv.View
	await.That(t, "a snapshot with nothing written meanwhile", func() error {
		before := m.cluster.View()
		if _, err := m.command(t, "snapshot", "save", path); err != nil {
			return err
		}
		out, err := m.command(t, "snapshot", "inspect", path, "-o", "json")
		if err != nil {
			return err
		}
		got = snapshotContents{}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			return err
		}
		if view = m.cluster.View(); before.Revision() != view.Revision() || got.Revision != view.Revision() {
			return fmt.Errorf("revision %d, of the snapshot %d, %d", before.Revision(), got.Revision, view.Revision())
		}
		return nil
	})
	want, objects := map[string]snapshotKind{}, uint64(0)
	view.Range("", "", func(v *kv.Version) bool {
		resource := strings.Split(v.Key, "/")[2]
		switch group := strings.Split(v.Key, "/")[1]; group {
		case "deleted":
			resource = "(deleted objects)"
		case "quota":
			resource = "(counters of quotas)"
		case "kontiki":
			resource = "(the cluster's own: " + resource + ")"
		case "", "core":
		default:
			resource += "." + group
		}
		k := want[resource]
		want[resource] = snapshotKind{Resource: resource, Objects: k.Objects + 1, Bytes: k.Bytes + int64(len(v.Value))}
		objects++
		return true
	})
	if got.Objects != objects || len(got.Kinds) != len(want) {
		t.Errorf("%d objects of %d kinds, there are %d of %d", got.Objects, len(got.Kinds), objects, len(want))
	}
	for _, k := range got.Kinds {
		if k != want[k.Resource] {
			t.Errorf("%+v, it is %+v", k, want[k.Resource])
		}
	}
	// And compared with the API.
	maps, err := m.admin.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := want["configmaps"].Objects; n != len(maps.Items) || n < 7 || want["configmaps"].Bytes < 21000 || want["secrets"].Objects < 3 {
		t.Errorf("the API has %d configmaps, the snapshot %+v and %+v", len(maps.Items), want["configmaps"], want["secrets"])
	}
	if stat, err := os.Stat(path); err != nil || got.Bytes != stat.Size() || got.Bytes < 21000 || got.File != path {
		t.Errorf("%s of %d bytes: %+v, %v", got.File, got.Bytes, stat, err)
	}
	out, err := m.command(t, "snapshot", "inspect", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		fmt.Sprintf("File:        %s (%d bytes, checked)", path, got.Bytes), fmt.Sprintf("Objects:     %d", objects), fmt.Sprintf("Revision:    %d", view.Revision()),
	} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("%q is not in:\n%s", line, out)
		}
	}
	for _, k := range want {
		if row := fmt.Sprint(k.Resource, k.Objects, k.Bytes); !strings.Contains(strings.ReplaceAll(out, " ", ""), strings.ReplaceAll(row, " ", "")+"\n") {
			t.Errorf("no row of %+v in:\n%s", k, out)
		}
	}
}
