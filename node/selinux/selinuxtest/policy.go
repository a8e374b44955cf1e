// Package selinuxtest has an SELinux policy for tests on hosts without SELinux.
package selinuxtest

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Policy gives processes the type container_t and files container_file_t, and knows every type but bad_t. The first level is s0:c0,c1, the
// second one s0:c1,c2, and so on.
type Policy struct {
	// Used are the levels that are reserved.
	Used map[string]bool
	next int
}

// New returns a policy without reserved levels.
func New() *Policy { return &Policy{Used: map[string]bool{}} }

// Labels implements selinux.Policy.
func (p *Policy) Labels(options []string) (process, file string, err error) {
	parts := map[string]string{"user": "system_u", "role": "system_r", "type": "container_t"}
	for _, o := range options {
		k, v, _ := strings.Cut(o, ":")
		parts[k] = v
	}
	for parts["level"] == "" {
		if l := fmt.Sprintf("s0:c%d,c%d", p.next, p.next+1); !p.Used[l] {
			parts["level"] = l
		}
		p.next++
	}
	p.Used[parts["level"]] = true
	return strings.Join([]string{parts["user"], parts["role"], parts["type"], parts["level"]}, ":"),
		strings.Join([]string{parts["user"], "object_r", "container_file_t", parts["level"]}, ":"), nil
}

// Check implements selinux.Policy.
func (p *Policy) Check(label string) error {
	if strings.Contains(label, ":bad_t:") {
		return unix.EINVAL
	}
	return nil
}

// Reserve implements selinux.Policy.
func (p *Policy) Reserve(label string) error {
	p.Used[levelOf(label)] = true
	return nil
}

// Release implements selinux.Policy.
func (p *Policy) Release(label string) { delete(p.Used, levelOf(label)) }

func levelOf(label string) string { return strings.SplitN(label, ":", 4)[3] }
