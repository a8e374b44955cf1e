// Package selinux gives pods the labels by which SELinux separates them from the host and from each other, and writes labels to files.
//
// A label is user:role:type:level, such as system_u:system_r:container_t:s0:c12,c345. The host's policy says in its file
// contexts/lxc_contexts which labels containers and their files have. Each pod gets a level of its own, two categories that no other pod of
// this agent has, which its containers share, so that they can use the same volumes. A pod's or container's seLinuxOptions replace parts
// of the label.
package selinux

import (
	"errors"
	"fmt"
	"regexp"
	"sync"

	library "github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
)

// Options are the parts of a label that a security context sets; empty ones are left to the policy.
type Options struct{ User, Role, Type, Level string }

// Labels are those of processes and of the files that they may write.
type Labels struct{ Process, File string }

// Host makes labels by the host's policy. It is safe for concurrent use.
type Host struct {
	policy Policy
	mu     sync.Mutex
	levels map[string]int // how many pods have a level
}

// Policy is what the host's policy and kernel decide. Host calls one method at a time. node/selinux/selinuxtest has one for tests.
type Policy interface {
	// Labels returns the labels of a new container in which the options ("user:U", "role:R", "type:T", "level:L") replace parts. A level
	// that is not among them is one that is not reserved. The level is reserved from then on.
	Labels(options []string) (process, file string, err error)
	// Check returns an error if the policy does not know a label.
	Check(label string) error
	// Reserve keeps others from getting a label's level as a new one, Release ends that. A level that is reserved is not an error.
	Reserve(label string) error
	Release(label string)
}

// New returns labels by a policy.
func New(p Policy) *Host { return &Host{policy: p, levels: map[string]int{}} }

// Open returns the labels of this host. Errors: its kernel does not enforce SELinux, or its policy does not say which labels containers
// have.
func Open() (*Host, error) {
	if !library.GetEnabled() {
		return nil, errors.New("the host's kernel does not have SELinux enabled")
	}
	h := New(kernel{})
	l, err := h.Pod(nil)
	if err != nil {
		return nil, err
	}
	h.Release(l)
	return h, nil
}

// parts is what each part of a label may be. The characters have no meaning in options of mounts, which have labels in quotes.
var (
	part  = regexp.MustCompile(`^[A-Za-z0-9_.-]{0,255}$`)
	level = regexp.MustCompile(`^[A-Za-z0-9_.:,-]{0,1000}$`)
)

// Check returns an error that names the field which cannot be part of a label.
func (o *Options) Check() error {
	if o == nil {
		return nil
	}
	for _, f := range []struct {
		name, value string
		want        *regexp.Regexp
	}{{"user", o.User, part}, {"role", o.Role, part}, {"type", o.Type, part}, {"level", o.Level, level}} {
		if !f.want.MatchString(f.value) {
			return fmt.Errorf("seLinuxOptions.%s: %.60q cannot be part of an SELinux label", f.name, f.value)
		}
	}
	return nil
}

func (o *Options) list() []string {
	var out []string
	if o != nil {
		for _, f := range [][2]string{{"user", o.User}, {"role", o.Role}, {"type", o.Type}, {"level", o.Level}} {
			if f[1] != "" {
				out = append(out, f[0]+":"+f[1])
			}
		}
	}
	return out
}

// Pod returns the labels of a new pod. Its level is the pod's until Release. Errors: a field that cannot be part of a label, or a label
// that the policy does not know.
func (h *Host) Pod(o *Options) (Labels, error) {
	l, err := h.make(o)
	if err != nil {
		return Labels{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.levels[levelOf(l.Process)]++
	return l, nil
}

// Keep says that a pod from before the agent's start has labels, as Pod does.
func (h *Host) Keep(l Labels) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.policy.Reserve(l.Process); err != nil {
		return err
	}
	h.levels[levelOf(l.Process)]++
	return nil
}

// Release says that the pod with these labels is gone.
func (h *Host) Release(l Labels) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := levelOf(l.Process)
	if h.levels[v]--; h.levels[v] <= 0 {
		delete(h.levels, v)
		h.policy.Release(l.Process)
	}
}

// Container returns the labels of a container of a pod: the pod's, or those that its own options make with the pod's level. Errors are
// those of Pod.
func (h *Host) Container(pod Labels, own *Options) (Labels, error) {
	if len(own.list()) == 0 {
		return pod, nil
	}
	o := *own
	if o.Level == "" {
		o.Level = levelOf(pod.Process)
	}
	l, err := h.make(&o)
	if err != nil {
		return Labels{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.levels[levelOf(l.Process)] == 0 { // only a pod's level is kept from others
		h.policy.Release(l.Process)
	}
	return l, nil
}

func (h *Host) make(o *Options) (Labels, error) {
	if err := o.Check(); err != nil {
		return Labels{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	process, file, err := h.policy.Labels(o.list())
	if err != nil {
		return Labels{}, fmt.Errorf("seLinuxOptions: %w", err)
	}
	if process == "" || file == "" {
		return Labels{}, errors.New("the host's SELinux policy does not say which labels containers have (contexts/lxc_contexts)")
	}
	for _, l := range []string{process, file} {
		if err := h.policy.Check(l); err != nil {
			if h.levels[levelOf(process)] == 0 {
				h.policy.Release(process)
			}
			return Labels{}, fmt.Errorf("seLinuxOptions: the host's policy does not allow the label %q: %w", l, err)
		}
	}
	return Labels{Process: process, File: file}, nil
}

// VM returns a process's label for a container that runs in a virtual machine, as the policy has it.
func VM(process string) (string, error) {
	out, err := library.SetProcessKind(process, library.ProcessKindKVM)
	if err != nil {
		return "", fmt.Errorf("SELinux label of a virtual machine: %w", err)
	}
	return out, nil
}

// levelOf returns the level of a label, "" if it has none.
func levelOf(l string) string {
	c, err := library.NewContext(l)
	if err != nil {
		return ""
	}
	return c["level"]
}

// kernel is the policy of this host.
type kernel struct{}

func (kernel) Labels(options []string) (process, file string, err error) {
	return label.InitLabels(options)
}

func (kernel) Check(l string) error { return library.SecurityCheckContext(l) }

func (kernel) Reserve(l string) error {
	if err := library.ReserveLabelV2(l); !errors.Is(err, library.ErrMCSAlreadyExists) {
		return err
	}
	return nil
}

func (kernel) Release(l string) { library.ReleaseLabel(l) }
