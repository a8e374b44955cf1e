package dev

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/kontiki/kontiki/internal/durable"
)

// DefaultDir is the default directory of a development cluster.
const DefaultDir = "/var/lib/kontiki/dev"

// subnet contains the hosts: the switch is .1, masters are .11 and up, workers .101 and up, hosts of hollow workers .201 and up. It is used only inside the cluster's
// own namespaces, so every development cluster can use the same one.
var subnet = netip.MustParsePrefix("10.89.0.0/24")

const (
	firstMaster = 11
	firstWorker = 101
	maxMasters  = 7
	maxWorkers  = 100
	firstHollow = 201
	maxHollow   = 10_000
	// perHollow is how many hollow workers a process runs.
	perHollow = 1000
	// hollowPods is the range of pod addresses of a cluster with hollow workers: it has more than maxHollow ranges of nodes.
	hollowPods = "100.64.0.0/10"
)

// role is the role of a host.
type role string

const (
	master role = "master"
	worker role = "worker"
	hollow role = "hollow"
)

// Host is one host of the cluster.
type Host struct {
	Name    string     `json:"name"`
	Role    role       `json:"role"`
	Address netip.Addr `json:"address"`
	// Hollow says which hollow workers run on the host, if it is one of those.
	Hollow *HollowWorkers `json:"hollow,omitempty"`
}

// HollowWorkers are the hollow workers of one process.
type HollowWorkers struct {
	First int `json:"first"`
	Count int `json:"count"`
	// Addresses are those of the workers, which are routed to the host.
	Addresses netip.Prefix `json:"addresses"`
}

// State describes a development cluster, as stored in <dir>/dev.json.
type State struct {
	Dir     string   `json:"dir"`
	ID      string   `json:"id"`
	APIPort int      `json:"apiPort"`
	Publish []string `json:"publish,omitempty"`
	Hosts   []Host   `json:"hosts"`
	// ServerArgs and AgentArgs are additional flags for every master and worker.
	ServerArgs []string `json:"serverArgs,omitempty"`
	AgentArgs  []string `json:"agentArgs,omitempty"`
	// HollowArgs are additional flags for every process of hollow workers.
	HollowArgs []string `json:"hollowArgs,omitempty"`
	// Programs are the kontiki binaries of those hosts that do not run the supervisor's, by host.
	Programs map[string]string `json:"programs,omitempty"`
	// Processes are the processes that were started, by host ("containerd" and "supervisor" for those).
	Processes map[string]Process `json:"processes"`
}

// Process is a started process. Started is its start time in clock ticks since boot, so that another process that got its pid is
// not mistaken for it.
type Process struct {
	Pid     int    `json:"pid"`
	Started uint64 `json:"started"`
}

func newState(dir string, masters, workers, hollows int) (*State, error) {
	if masters < 1 || masters > maxMasters {
		return nil, fmt.Errorf("--masters: %d is not from 1 to %d", masters, maxMasters)
	}
	if workers < 0 || workers > maxWorkers {
		return nil, fmt.Errorf("--workers: %d is not from 0 to %d", workers, maxWorkers)
	}
	if hollows < 0 || hollows > maxHollow {
		return nil, fmt.Errorf("--hollow: %d is not from 0 to %d", hollows, maxHollow)
	}
	s := &State{Dir: dir, Processes: map[string]Process{}}
	if dir != DefaultDir {
		sum := sha256.Sum256([]byte(dir))
		s.ID = hex.EncodeToString(sum[:3])
	}
	add := func(r role, count, first int) {
		for i := range count {
			s.Hosts = append(s.Hosts, Host{Name: fmt.Sprintf("%s-%d", r, i+1), Role: r, Address: address(first + i)})
		}
	}
	add(master, masters, firstMaster)
	add(worker, workers, firstWorker)
	for i := 0; i*perHollow < hollows; i++ {
		s.Hosts = append(s.Hosts, Host{Name: fmt.Sprintf("%s-%d", hollow, i+1), Role: hollow, Address: address(firstHollow + i), Hollow: &HollowWorkers{
			First: i*perHollow + 1, Count: min(perHollow, hollows-i*perHollow),
			Addresses: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(firstHollow + i), 0, 0}), 16)}})
	}
	return s, nil
}

func address(last int) netip.Addr {
	b := subnet.Addr().As4()
	b[3] = byte(last)
	return netip.AddrFrom4(b)
}

func (s *State) file() string       { return filepath.Join(s.Dir, "dev.json") }
func (s *State) socket() string     { return filepath.Join(s.Dir, "dev.sock") }
func (s *State) Kubeconfig() string { return filepath.Join(s.Dir, "kubeconfig") }
func (s *State) hostDir(h Host) string {
	return filepath.Join(s.Dir, "hosts", h.Name)
}
func (s *State) logFile(name string) string { return filepath.Join(s.Dir, "logs", name+".log") }
func (s *State) containerdDir() string      { return filepath.Join(s.Dir, "containerd") }
func (s *State) containerdSocket() string   { return filepath.Join(s.containerdDir(), "containerd.sock") }
func (s *State) cgroupParent(h Host) string { return s.cgroupRoot() + "/" + h.Name }
func (s *State) containerdNS(h Host) string { return s.prefix() + h.Name }
func (s *State) namespace(h Host) string    { return s.prefix() + h.Name }
func (s *State) switchNamespace() string    { return s.prefix() + "switch" }
func (s *State) of(r role) (out []Host) {
	for _, h := range s.Hosts {
		if h.Role == r {
			out = append(out, h)
		}
	}
	return out
}

func (s *State) prefix() string {
	if s.ID == "" {
		return "kontiki-"
	}
	return "kontiki-" + s.ID + "-"
}

func (s *State) cgroupRoot() string { return strings.TrimSuffix(s.prefix(), "-") }

func (s *State) host(name string) (Host, error) {
	var names []string
	for _, h := range s.Hosts {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return Host{}, fmt.Errorf("there is no host %q; the hosts are %s", name, strings.Join(names, ", "))
}

// save writes the state so that it survives the process.
func (s *State) save() error {
	return durable.Save(s.file(), s)
}

// load reads the state of the cluster in dir. It returns fs.ErrNotExist if there is none.
func load(dir string) (*State, error) {
	s := &State{Dir: dir}
	data, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no development cluster in %s: %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", s.file(), err)
	}
	if s.Processes == nil {
		s.Processes = map[string]Process{}
	}
	return s, nil
}
