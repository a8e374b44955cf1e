package server

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSchedulerConfig(t *testing.T) {
	read := func(text string) (schedulerConfig, error) {
		c := schedulerConfig{file: filepath.Join(t.TempDir(), "scheduler.yaml")}
		if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := c.read()
		return c, err
	}
	const header = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
	c, err := read(header + "profiles: [{schedulerName: a}]\n")
	if err != nil || !slices.Equal(c.Names(), []string{"a"}) || c.digest == "" {
		t.Errorf("%v: %+v", err, c)
	}
	other, err := read(header + "profiles: [{schedulerName: b}]\n")
	if err != nil || other.digest == c.digest {
		t.Errorf("%v: two files have the digest %s", err, c.digest)
	}
	for text, want := range map[string]string{
		header + "parallelism: 3":    "parallelism: Forbidden",
		strings.Repeat("#", 1<<20+1): "more than 1048576 bytes",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--scheduler-config: ") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	missing := schedulerConfig{file: filepath.Join(t.TempDir(), "missing")}
	if err := missing.read(); err == nil {
		t.Error("a missing file is accepted")
	}
	none := schedulerConfig{}
	if err := none.read(); err != nil || !slices.Equal(none.Names(), []string{"default-scheduler"}) || none.digest != "" {
		t.Errorf("%v: %+v", err, none)
	}
}
