package cis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// Facts are what answers are computed from. The first fields are given, the others gathered.
type Facts struct {
	Client kubernetes.Interface
	// Configz returns the answer of a node's /configz.
	Configz func(ctx context.Context, node string) ([]byte, error)
	// Weak says whether the API agreed to a handshake with a version or a cipher that is not strong, and with which.
	Weak func(ctx context.Context) (what string, err error)
	// Master is the name of the master that answered, and Flags its flags; nil if it does not say them.
	Master string
	Flags  map[string]string
	// Host is this host's name. Stat looks at its files; nil means os.Lstat.
	Host string
	Stat func(path string) (fs.FileInfo, error)
	// AgentDir is the directory of the worker's data on this host, and Config the configuration file.
	AgentDir, Config string
	// Units are the paths at which systemd's units may be.
	Units []string

	kubelets     map[string]*kubeletv1beta1.KubeletConfiguration
	unasked      []string // nodes whose configuration could not be read, and why
	weak         string
	weakErr      error
	roles        []rbacv1.Role
	clusterRoles []rbacv1.ClusterRole
	bindings     []rbacv1.RoleBinding
	wide         []rbacv1.ClusterRoleBinding
	namespaces   []corev1.Namespace
	accounts     []corev1.ServiceAccount
	pods         []corev1.Pod
	policies     []networkingv1.NetworkPolicy
	maps         map[string]bool // namespaces with the ConfigMap of the CA
	inDefault    []string
}

// pageSize is how many objects are read at a time.
const pageSize = 500

// all reads all objects of a kind, in pages.
func all[L interface{ GetContinue() string }, T any](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), items func(L) []T) ([]T, error) {
	var out []T
	options := metav1.ListOptions{Limit: pageSize}
	for {
		l, err := list(ctx, options)
		if err != nil {
			return nil, err
		}
		out = append(out, items(l)...)
		if options.Continue = l.GetContinue(); options.Continue == "" {
			return out, nil
		}
	}
}

func (f *Facts) gather(ctx context.Context) error {
	if f.Stat == nil {
		f.Stat = os.Lstat
	}
	core, rbac := f.Client.CoreV1(), f.Client.RbacV1()
	var failed []error
	note := func(what string, err error) {
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", what, err))
		}
	}
	var err error
	f.roles, err = all(ctx, rbac.Roles("").List, func(l *rbacv1.RoleList) []rbacv1.Role { return l.Items })
	note("roles", err)
	f.clusterRoles, err = all(ctx, rbac.ClusterRoles().List, func(l *rbacv1.ClusterRoleList) []rbacv1.ClusterRole { return l.Items })
	note("cluster roles", err)
	f.bindings, err = all(ctx, rbac.RoleBindings("").List, func(l *rbacv1.RoleBindingList) []rbacv1.RoleBinding { return l.Items })
	note("role bindings", err)
	f.wide, err = all(ctx, rbac.ClusterRoleBindings().List, func(l *rbacv1.ClusterRoleBindingList) []rbacv1.ClusterRoleBinding { return l.Items })
	note("cluster role bindings", err)
	f.namespaces, err = all(ctx, core.Namespaces().List, func(l *corev1.NamespaceList) []corev1.Namespace { return l.Items })
	note("namespaces", err)
	f.accounts, err = all(ctx, core.ServiceAccounts("").List, func(l *corev1.ServiceAccountList) []corev1.ServiceAccount { return l.Items })
	note("service accounts", err)
	f.pods, err = all(ctx, core.Pods("").List, func(l *corev1.PodList) []corev1.Pod { return l.Items })
	note("pods", err)
	f.policies, err = all(ctx, f.Client.NetworkingV1().NetworkPolicies("").List, func(l *networkingv1.NetworkPolicyList) []networkingv1.NetworkPolicy { return l.Items })
	note("network policies", err)
	roots, err := core.ConfigMaps("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=kube-root-ca.crt"})
	note("config maps", err)
	services, err := core.Services(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	note("services", err)
	nodes, err := core.Nodes().List(ctx, metav1.ListOptions{})
	note("nodes", err)
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	f.maps = map[string]bool{}
	for _, m := range roots.Items {
		f.maps[m.Namespace] = true
	}
	for _, s := range services.Items {
		if s.Name != "kubernetes" {
			f.inDefault = append(f.inDefault, "service "+s.Name)
		}
	}
	for i := range f.pods {
		if f.pods[i].Namespace == metav1.NamespaceDefault {
			f.inDefault = append(f.inDefault, "pod "+f.pods[i].Name)
		}
	}
	f.askNodes(ctx, nodes.Items)
	f.weak, f.weakErr = f.Weak(ctx)
	return nil
}

// askNodes reads the configuration of each worker that is one of ours.
func (f *Facts) askNodes(ctx context.Context, nodes []corev1.Node) {
	f.kubelets = map[string]*kubeletv1beta1.KubeletConfiguration{}
	for i := range nodes {
		if !strings.Contains(nodes[i].Status.NodeInfo.KubeletVersion, "+kontiki") || nodes[i].Labels["kontiki.io/hollow"] != "" {
			continue
		}
		var said struct {
			KubeletConfig *kubeletv1beta1.KubeletConfiguration `json:"kubeletconfig"`
		}
		data, err := f.Configz(ctx, nodes[i].Name)
		if err == nil {
			err = json.Unmarshal(data, &said)
		}
		if err == nil && said.KubeletConfig == nil {
			err = errors.New("it says no configuration")
		}
		if err != nil {
			f.unasked = append(f.unasked, fmt.Sprintf("%s: %v", nodes[i].Name, err))
			continue
		}
		f.kubelets[nodes[i].Name] = said.KubeletConfig
	}
}

// flag answers by the value of a master's flag.
func flag(name string, decide func(value string) answer) func(*Facts) answer {
	return func(f *Facts) answer {
		value, ok := f.Flags[name]
		if !ok {
			return manual(fmt.Sprintf("the master does not say its flag --%s: it is of an earlier version", name))
		}
		return decide(value)
	}
}

// plugin answers whether an admission plug-in that is off by default is on.
func plugin(name string, otherwise answer) func(*Facts) answer {
	return flag("enable-admission-plugins", func(value string) answer {
		if has(value, name) {
			return passes("--enable-admission-plugins has " + name)
		}
		return otherwise
	})
}

// keeps answers whether an admission plug-in that is on by default is on.
func keeps(name string) func(*Facts) answer {
	return flag("disable-admission-plugins", func(value string) answer {
		if has(value, name) {
			return fails("remove " + name + " from --disable-admission-plugins")
		}
		return passes(name + " is on by default, and not in --disable-admission-plugins")
	})
}

// has says whether a list, as a flag prints it, has an element.
func has(list, element string) bool {
	return slices.Contains(strings.Split(strings.Trim(list, "[]"), ","), element)
}

// atLeast answers by a number, of which 0 means without a limit.
func atLeast(name string, least int, unit string) func(*Facts) answer {
	return flag(name, func(value string) answer {
		n, err := strconv.Atoi(value)
		switch {
		case err != nil:
			return manual(fmt.Sprintf("--%s is %q", name, value))
		case n == 0:
			return passes(fmt.Sprintf("--%s is 0: without a limit", name))
		case n < least:
			return fails(fmt.Sprintf("--%s is %d: want at least %d %s", name, n, least, unit))
		}
		return passes(fmt.Sprintf("--%s is %d %s", name, n, unit))
	})
}

// kubelet answers by the configuration of all workers: wrong says what is wrong with one, "" if nothing is.
func kubelet(fine, advice string, wrong func(*kubeletv1beta1.KubeletConfiguration) string) func(*Facts) answer {
	return func(f *Facts) answer {
		var found []string
		for name, c := range f.kubelets {
			if w := wrong(c); w != "" {
				found = append(found, name+": "+w)
			}
		}
		slices.Sort(found)
		switch {
		case len(found) > 0:
			return fails(advice, found...)
		case len(f.unasked) > 0:
			return manual("the configuration of some workers could not be read", f.unasked...)
		case len(f.kubelets) == 0:
			return answer{result: NotApplicable, reason: "there is no worker"}
		}
		return passes(fine)
	}
}

// missing is the answer if a host has none of some files.
func (f *Facts) missing(what string) answer {
	return answer{result: NotApplicable, reason: fmt.Sprintf("there is no %s on this host (%s)", what, f.Host)}
}

// modes answers whether those files that exist have no more rights than most.
func modes(what string, most fs.FileMode, files func(*Facts) []string) func(*Facts) answer {
	return looked(what, files, func(path string, info fs.FileInfo) string {
		if info.Mode()&fs.ModeSymlink != 0 {
			return path + " is a link"
		}
		if over := info.Mode().Perm() &^ most; over != 0 {
			return fmt.Sprintf("%s has mode %#o: chmod %#o", path, info.Mode().Perm(), info.Mode().Perm()&most)
		}
		return ""
	}, fmt.Sprintf("mode %#o or less", most))
}

// ofRoot answers whether those files that exist belong to root.
func ofRoot(what string, files func(*Facts) []string) func(*Facts) answer {
	return looked(what, files, func(path string, info fs.FileInfo) string {
		if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Uid != 0 || s.Gid != 0 {
			return path + " does not belong to root:root"
		}
		return ""
	}, "root:root")
}

// looked answers by what is wrong with those files that exist.
func looked(what string, files func(*Facts) []string, wrong func(path string, info fs.FileInfo) string, fine string) func(*Facts) answer {
	return func(f *Facts) answer {
		var found []string
		seen := 0
		for _, path := range files(f) {
			info, err := f.Stat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue
			case err != nil:
				return manual(fmt.Sprintf("%s cannot be looked at: %v; run this as root", path, err))
			}
			seen++
			if w := wrong(path, info); w != "" {
				found = append(found, w)
			}
		}
		switch {
		case seen == 0:
			return f.missing(what)
		case len(found) > 0:
			return fails("too many may read or change it", found...)
		}
		return passes(fmt.Sprintf("%s: %s", what, fine))
	}
}
