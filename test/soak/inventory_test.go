package soak_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// inventory is what is on the workers, by the kind of thing.
type inventory map[string][]string

// differs returns an error that names what is only in one of two inventories.
func (i inventory) differs(now inventory) error {
	counts := map[string]int{}
	for kind, things := range now {
		for _, thing := range things {
			counts[kind+": "+thing]++
		}
	}
	for kind, things := range i {
		for _, thing := range things {
			counts[kind+": "+thing]--
		}
	}
	var out []string
	for thing, n := range counts {
		if n != 0 {
			out = append(out, fmt.Sprintf("%+d %s", n, thing))
		}
	}
	if len(out) == 0 {
		return nil
	}
	slices.Sort(out)
	if len(out) > 30 {
		out = append(out[:30], fmt.Sprintf("and %d more", len(out)-30))
	}
	return errors.New("\n" + strings.Join(out, "\n"))
}

// inventory takes stock of the workers.
func (s *soak) inventory() (inventory, error) {
	i := inventory{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, s.c.Dir) {
			i["mount"] = append(i["mount"], strings.Fields(line)[4])
		}
	}
	if i["process"], err = s.processes(); err != nil {
		return nil, err
	}
	for _, worker := range []string{"worker-1", "worker-2"} {
		namespace, err := s.c.Namespace(worker)
		if err != nil {
			return nil, err
		}
		for kind, command := range map[string][]string{
			"link":  {"ip", "-n", namespace, "-o", "link"},
			"route": {"ip", "-n", namespace, "route"},
		} {
			if i[kind+" of "+worker], err = lines(command...); err != nil {
				return nil, err
			}
		}
		if i["firewall of "+worker], err = firewall(namespace); err != nil {
			return nil, err
		}
		// containerd's namespace has the name of the network namespace.
		for kind, command := range map[string][]string{
			"container": {"containers", "ls", "-q"}, "task": {"tasks", "ls", "-q"}, "snapshot": {"snapshots", "ls"}, "lease": {"leases", "ls", "-q"}, "ingest": {"content", "active"},
		} {
			args := append([]string{"ctr", "-a", filepath.Join(s.c.Dir, "containerd", "containerd.sock"), "-n", namespace}, command...)
			if i[kind+" of "+worker], err = lines(args...); err != nil {
				return nil, err
			}
		}
		if i["cgroup of "+worker], err = folders("/sys/fs/cgroup", func(path string) bool {
			return strings.Contains(path, strings.TrimSuffix(namespace, "-"+worker)+"/"+worker+"/")
		}); err != nil {
			return nil, err
		}
		// The folder of all volumes of local-path is made with the first of them, and stays.
		if i["folder of "+worker], err = folders(filepath.Join(s.c.Dir, "hosts", worker), func(path string) bool { return filepath.Base(path) != "local-path" }); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// volatile are parts of what commands print that change by themselves.
var volatile = regexp.MustCompile(`^\d+: |expires \S+|@if\d+| link-netnsid \d+| link-netns \S+`)

func lines(command ...string) (out []string, err error) {
	var stderr bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, stderr.String())
	}
	for line := range strings.Lines(string(text)) {
		if line = volatile.ReplaceAllString(strings.TrimSpace(line), ""); line != "" {
			out = append(out, line)
		}
	}
	return out, nil
}

// elements are those of a set or map, in an order that is the kernel's.
var elements = regexp.MustCompile(`(?s)elements = \{(.*?)\}`)

func firewall(namespace string) ([]string, error) {
	rules, err := lines("ip", "netns", "exec", namespace, "nft", "-s", "list", "ruleset")
	if err != nil {
		return nil, err
	}
	text := elements.ReplaceAllStringFunc(strings.Join(rules, "\n"), func(set string) string {
		var sorted []string
		for element := range strings.SplitSeq(elements.FindStringSubmatch(set)[1], ",") {
			sorted = append(sorted, strings.TrimSpace(element))
		}
		slices.Sort(sorted)
		return "elements = " + strings.Join(sorted, ", ")
	})
	return strings.Split(text, "\n"), nil
}

// folders returns the directories below a path.
func folders(root string, wanted func(path string) bool) (out []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() && wanted(path) {
			out = append(out, path)
		}
		return err
	})
	return out, err
}

// processes returns the processes that have the cluster's directory among their arguments, such as shims, without their pids.
func (s *soak) processes() (out []string, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !bytes.Contains(args, []byte(s.c.Dir)) {
			continue // none, or ended
		}
		out = append(out, strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " ")))
	}
	return out, nil
}
