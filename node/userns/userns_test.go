package userns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRangesOfPods(t *testing.T) {
	dir := t.TempDir()
	m, err := Open(dir, Range{131072, 3 * IDsPerPod}, 3)
	if err != nil {
		t.Fatal(err)
	}
	give := func(pod string) Range {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, pod), 0o755); err != nil {
			t.Fatal(err)
		}
		r, err := m.Of(pod)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for i, pod := range []string{"a", "b", "c"} {
		want := Range{uint32(131072 + i*IDsPerPod), IDsPerPod}
		if got := give(pod); got != want || give(pod) != want {
			t.Errorf("pod %s got %v, want %v each time", pod, got, want)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r, err := m.Of("d"); err == nil || !strings.Contains(err.Error(), "all 3 ranges") {
		t.Errorf("one too many: %v, %v", r, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "d", file)); err == nil {
		t.Error("a pod that got no ids has a record")
	}

	// A new agent, also with another range, keeps what pods have.
	was := give("b")
	if m, err = Open(dir, Range{10 * IDsPerPod, 3 * IDsPerPod}, 3); err != nil {
		t.Fatal(err)
	}
	if got := give("b"); got != was {
		t.Errorf("after a restart b has %v, it had %v", got, was)
	}
	if err := os.RemoveAll(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	m.Release("b")
	m.Release("unknown")
	if m, err = Open(dir, Range{131072, 3 * IDsPerPod}, 3); err != nil {
		t.Fatal(err)
	}
	if got := give("d"); got != was {
		t.Errorf("d got %v, want those that were freed: %v", got, was)
	}
}

func TestRecordsThatCannotBeTrusted(t *testing.T) {
	for name, content := range map[string]string{
		"broken":           "{",
		"the host's users": `{"uidMappings":[{"hostId":0,"containerId":0,"length":65536}],"gidMappings":[{"hostId":0,"containerId":0,"length":65536}]}`,
		"taken":            `{"uidMappings":[{"hostId":65536,"containerId":0,"length":65536}],"gidMappings":[{"hostId":65536,"containerId":0,"length":65536}]}`,
		"too long":         `{"uidMappings":[{"hostId":131072,"containerId":0,"length":131072}],"gidMappings":[{"hostId":131072,"containerId":0,"length":131072}]}`,
		"groups differ":    `{"uidMappings":[{"hostId":131072,"containerId":0,"length":65536}],"gidMappings":[{"hostId":196608,"containerId":0,"length":65536}]}`,
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "a"), 0o755); err != nil {
			t.Fatal(err)
		}
		m, err := Open(dir, DefaultRange, 10)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Of("a"); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "b"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "b", file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, DefaultRange, 10); err == nil || !strings.Contains(err.Error(), filepath.Join("b", file)) {
			t.Errorf("%s: error %v, want one that names the file", name, err)
		}
	}
}

func TestRangesThatDoNotFit(t *testing.T) {
	for r, want := range map[Range]string{
		{0, 10 * IDsPerPod}:                       "the host's own users",
		{IDsPerPod + 1, 10 * IDsPerPod}:           "multiples",
		{IDsPerPod, 10*IDsPerPod + 1}:             "multiples",
		{65535 * IDsPerPod, 10 * IDsPerPod}:       "32 bits",
		{IDsPerPod, 9 * IDsPerPod}:                "enough for 9 pods",
		{IDsPerPod, 10 * IDsPerPod}:               "",
		DefaultRange:                              "",
		{65526 * IDsPerPod, 10 * uint32(1) << 16}: "",
	} {
		_, err := Open(t.TempDir(), r, 10)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", r, err, want)
		}
	}
}

func TestSubordinateIDs(t *testing.T) {
	for out, want := range map[string]string{
		"0: kubelet 65536 7208960\n":           "{65536 7208960}",
		"":                                     "want one range, there are 0",
		"0: kubelet 1 2\n1: kubelet 3 4\n":     "want one range, there are 2",
		"Error fetching ranges\n":              "getsubids printed",
		"0: kubelet x 7208960\n":               "invalid syntax",
		"0: kubelet 65536 99999999999999999\n": "value out of range",
	} {
		r, err := parse(out)
		if got := fmt.Sprint(r); err == nil && got != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %s, %v, want %q", out, got, err, want)
		}
	}
}
