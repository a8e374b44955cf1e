package dev

import (
	"errors"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestNewStateBounds(t *testing.T) {
	for _, c := range []struct {
		masters, workers int
		want             string // in the error
	}{
		{1, 0, ""}, {3, 2, ""}, {maxMasters, maxWorkers, ""},
		{0, 2, "--masters: 0"}, {-1, 2, "--masters: -1"}, {maxMasters + 1, 2, "--masters: 8"},
		{3, -1, "--workers: -1"}, {3, maxWorkers + 1, "--workers: 101"},
	} {
		s, err := newState(DefaultDir, c.masters, c.workers, 0)
		switch {
		case c.want != "":
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%d masters, %d workers: %v, want %s", c.masters, c.workers, err, c.want)
			}
		case err != nil:
			t.Errorf("%d masters, %d workers: %v", c.masters, c.workers, err)
		case len(s.of(master)) != c.masters || len(s.of(worker)) != c.workers:
			t.Errorf("%d masters, %d workers: %+v", c.masters, c.workers, s.Hosts)
		}
	}
}

func TestHostsHaveNamesAndAddressesOfTheirOwn(t *testing.T) {
	s, err := newState(DefaultDir, maxMasters, maxWorkers, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, h := range s.Hosts {
		for _, what := range []string{h.Name, h.Address.String(), s.namespace(h), s.cgroupParent(h), s.hostDir(h)} {
			if other, ok := seen[what]; ok && other != h.Name {
				t.Errorf("%s and %s share %s", other, h.Name, what)
			}
			seen[what] = h.Name
		}
		if !subnet.Contains(h.Address) || h.Address == address(1) {
			t.Errorf("%s has the address %s", h.Name, h.Address)
		}
		if found, err := s.host(h.Name); err != nil || found != h {
			t.Errorf("host %s: %+v, %v", h.Name, found, err)
		}
	}
	for name, want := range map[string]string{"master-1": "10.89.0.11", "master-7": "10.89.0.17", "worker-1": "10.89.0.101", "worker-100": "10.89.0.200"} {
		if h, err := s.host(name); err != nil || h.Address.String() != want {
			t.Errorf("%s: %+v, %v, want %s", name, h, err, want)
		}
	}
	if _, err := s.host("worker-101"); err == nil || !strings.Contains(err.Error(), `"worker-101"`) || !strings.Contains(err.Error(), "master-1, master-2") {
		t.Errorf("an unknown host: %v", err)
	}
}

func TestNamesOnTheMachine(t *testing.T) {
	const other = "/srv/second"
	names := func(dir string) (*State, []string) {
		s, err := newState(dir, 1, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		w := s.of(worker)[0]
		return s, []string{s.switchNamespace(), s.namespace(w), s.containerdNS(w), s.cgroupRoot(), s.cgroupParent(w)}
	}
	s, got := names(DefaultDir)
	if want := []string{"kontiki-switch", "kontiki-worker-1", "kontiki-worker-1", "kontiki", "kontiki/worker-1"}; s.ID != "" || !reflect.DeepEqual(got, want) {
		t.Errorf("the default directory: id %q, names %q", s.ID, got)
	}
	s, got = names(other)
	prefix := "kontiki-" + s.ID
	if want := []string{prefix + "-switch", prefix + "-worker-1", prefix + "-worker-1", prefix, prefix + "/worker-1"}; len(s.ID) != 6 || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: id %q, names %q", other, s.ID, got)
	}
	if again, _ := names(other); again.ID != s.ID {
		t.Errorf("the id changes: %s, %s", s.ID, again.ID)
	}
	if third, _ := names("/srv/third"); third.ID == s.ID {
		t.Error("two directories have the same id")
	}
}

func TestStateIsSavedAndLoaded(t *testing.T) {
	dir := t.TempDir()
	if _, err := load(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("nothing there: %v", err)
	}
	s, err := newState(dir, 3, 2, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.APIPort, s.Publish = 7443, []string{"8080:30080"}
	s.ServerArgs, s.AgentArgs = []string{"--default-toleration-seconds=5"}, []string{"--max-pods=9"}
	s.Processes["master-1"] = Process{4711, 1 << 60}
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(s.file()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	loaded, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(loaded, s) {
		t.Errorf("saved %+v, loaded %+v", s, loaded)
	}
	if err := os.WriteFile(s.file(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(dir); err == nil || !strings.Contains(err.Error(), s.file()) {
		t.Errorf("a torn file: %v", err)
	}
}

func TestStatusOfAClusterThatDoesNotRun(t *testing.T) {
	s, err := newState(t.TempDir(), 1, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.APIPort = 7443
	_, p := start(t, "master-1")
	s.Processes["master-1"] = p
	s.Processes["worker-1"] = Process{p.Pid, p.Started - 1} // its pid is another's now
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	got, err := ReadStatus(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	want := &Status{Dir: s.Dir, Kubeconfig: s.Dir + "/kubeconfig", API: "https://127.0.0.1:7443", Hosts: []HostStatus{
		{Host: s.Hosts[0], Namespace: s.namespace(s.Hosts[0]), Running: true, Pid: p.Pid},
		{Host: s.Hosts[1], Namespace: s.namespace(s.Hosts[1])},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("status %+v, want %+v", got, want)
	}
	if err := Kill(t.Context(), s.Dir, "master-1"); err == nil || !strings.Contains(err.Error(), "kontiki dev stop") {
		t.Errorf("kill without a supervisor: %v", err)
	}
	if err := Start(t.Context(), s.Dir, "master-9", ""); err == nil || !strings.Contains(err.Error(), `no host "master-9"`) {
		t.Errorf("start of an unknown host: %v", err)
	}
	if !p.alive() {
		t.Error("the process was ended")
	}
}
