package pods

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/node/runtime"
)

// writeFiles writes the pod's /etc/hosts, /etc/hostname and /etc/resolv.conf. It writes them in place, because they are mounted in
// containers.
func (w *worker) writeFiles(pod *corev1.Pod, name string) error {
	if pod.Spec.HostNetwork {
		name, _ = os.Hostname()
	}
	hostResolv, _ := os.ReadFile("/etc/resolv.conf")
	files := map[string]string{
		"hosts":       w.hosts(pod),
		"hostname":    name + "\n",
		"resolv.conf": resolvConf(pod, w.m.c.DNS(), string(hostResolv)),
	}
	dir := filepath.Join(w.m.podDir(pod.UID), "etc")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for n, content := range files {
		if b, err := beneath.ReadFile(dir, n, beneath.Refuse, int64(len(content))); err == nil && string(b) == content {
			continue
		}
		if err := root.WriteFile(n, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) hosts(pod *corev1.Pod) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		if h, err := os.ReadFile("/etc/hosts"); err == nil {
			b.Write(h)
		}
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		for _, ip := range w.podIPs {
			if f := w.fqdn(pod); f != "" {
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, f, hostname(pod))
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname(pod))
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

// resolvConf returns the resolv.conf for the pod's DNS policy and configuration.
func resolvConf(pod *corev1.Pod, dns DNS, host string) string {
	var servers, search []string
	options := map[string]*string{}
	var order []string
	option := func(s string) {
		k, v, ok := strings.Cut(s, ":")
		if _, seen := options[k]; !seen {
			order = append(order, k)
		}
		options[k] = nil
		if ok {
			options[k] = &v
		}
	}
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork || len(dns.Servers) == 0 && policy != corev1.DNSNone {
		policy = corev1.DNSDefault
	}
	hostServers, hostSearch, hostOptions := parseResolv(host)
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		servers, search = hostServers, hostSearch
		for _, o := range hostOptions {
			option(o)
		}
	default:
		servers = dns.Servers
		search = []string{pod.Namespace + ".svc." + dns.Domain, "svc." + dns.Domain, dns.Domain}
		for _, s := range hostSearch {
			if !slices.Contains(search, s) {
				search = append(search, s)
			}
		}
		option("ndots:5")
	}
	if c := pod.Spec.DNSConfig; c != nil {
		for _, s := range c.Nameservers {
			if !slices.Contains(servers, s) {
				servers = append(slices.Clone(servers), s)
			}
		}
		for _, s := range c.Searches {
			if !slices.Contains(search, s) {
				search = append(slices.Clone(search), s)
			}
		}
		for _, o := range c.Options {
			s := o.Name
			if o.Value != nil {
				s += ":" + *o.Value
			}
			option(s)
		}
	}
	var b strings.Builder
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	for _, s := range servers[:min(len(servers), 3)] {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(order) > 0 {
		b.WriteString("options")
		for _, k := range order {
			b.WriteString(" " + k)
			if v := options[k]; v != nil {
				b.WriteString(":" + *v)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func parseResolv(s string) (servers, search, options []string) {
	sc := bufio.NewScanner(strings.NewReader(s))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(f[1]); err == nil {
				servers = append(servers, f[1])
			}
		case "search", "domain":
			search = nil
			for _, d := range f[1:] {
				if d != "." {
					search = append(search, d)
				}
			}
		case "options":
			options = append(options, f[1:]...)
		}
	}
	return servers, search, options
}

// Limits of termination messages.
const (
	maxMessage      = 4096
	maxMessageLog   = 2048
	maxMessageLines = 80
)

// messageFile returns the path of a container's termination message below the pod's directory.
func messageFile(container string, attempt int) string {
	return filepath.Join("containers", container, strconv.Itoa(attempt))
}

// makeMessageFile creates an empty file that the container's user may write, whoever that is, and returns its path.
func (w *worker) makeMessageFile(pod *corev1.Pod, container string, attempt int) (string, error) {
	dir, name := w.m.podDir(pod.UID), messageFile(container, attempt)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return "", err
	}
	if err := root.RemoveAll(name); err != nil {
		return "", err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return filepath.Join(dir, name), f.Chmod(0o666)
}

// terminationMessage reads the termination message of an exited container, once.
func (w *worker) terminationMessage(pod *corev1.Pod, c runtime.Container) string {
	if m, ok := w.messages[c.ID]; ok {
		return m
	}
	message := ""
	if c.Labels[labelMessagePath] != "" {
		if b, err := beneath.ReadTail(w.m.podDir(pod.UID), messageFile(c.Name, c.Attempt), beneath.Refuse, maxMessage); err == nil {
			message = text(b, maxMessage)
		}
	}
	if message == "" && c.Labels[labelMessagePolicy] == string(corev1.TerminationMessageFallbackToLogsOnError) && c.ExitCode != 0 {
		message = text([]byte(logTail(c.LogPath)), maxMessageLog)
	}
	w.messages[c.ID] = message
	return message
}

// text converts bytes of a container to a string that the API accepts, keeping the last limit bytes.
func text(b []byte, limit int) string {
	return lastBytes(strings.ToValidUTF8(string(b), "\uFFFD"), limit)
}

// lastBytes returns at most n bytes of the end of s, in whole runes.
func lastBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}

// maxText is how long texts of errors in logs and events may be; paths in them may be very long.
const maxText = 1024

// shorten leaves out the middle of a text of more than n bytes.
func shorten(s string, n int) string {
	const gap = " ... "
	if len(s) <= n {
		return s
	}
	half := (n - len(gap)) / 2
	return strings.ToValidUTF8(s[:half], "") + gap + lastBytes(s, half)
}

// logTail returns the text of the last lines of a CRI log.
func logTail(path string) string {
	f, err := runtime.OpenLog(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	const window = 64 << 10
	from := max(0, st.Size()-window)
	b := make([]byte, min(st.Size(), window))
	n, _ := f.ReadAt(b, from)
	b = b[:n]
	if from > 0 {
		if _, rest, ok := strings.Cut(string(b), "\n"); ok {
			b = []byte(rest)
		}
	}
	lines := strings.SplitAfter(string(b), "\n")
	if lines[len(lines)-1] == "" { // what follows the last newline
		lines = lines[:len(lines)-1]
	}
	if len(lines) > maxMessageLines {
		lines = lines[len(lines)-maxMessageLines:]
	}
	var out strings.Builder
	for _, l := range lines {
		f := strings.SplitN(l, " ", 4)
		if len(f) < 4 {
			continue
		}
		text := f[3]
		if f[2] == "P" {
			text = strings.TrimSuffix(text, "\n")
		}
		out.WriteString(text)
	}
	return lastBytes(out.String(), maxMessageLog)
}
