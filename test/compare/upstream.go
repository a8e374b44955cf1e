package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// upstream is kube-apiserver with its scheduler and controller manager, and one or three members of etcd, set up as kubeadm does.
type upstream struct {
	programs, dir string
	members       int
	// nodesAreObjects leaves out what taints nodes that no kubelet reports for.
	nodesAreObjects bool

	certs   *authority
	config  *rest.Config
	running []*process
}

func (u *upstream) start(ctx context.Context) error {
	var err error
	if u.certs, err = newAuthority(u.dir); err != nil {
		return err
	}
	etcds, err := u.startEtcd()
	if err != nil {
		return err
	}
	if err := u.startAPIServer(ctx, etcds); err != nil {
		return err
	}
	return u.startControllers(ctx)
}

// startEtcd returns the members' addresses for clients.
func (u *upstream) startEtcd() (string, error) {
	cert, err := u.certs.issue("etcd", "etcd")
	if err != nil {
		return "", err
	}
	var names, clients, peers []string
	for i := range u.members {
		client, err := freePort()
		if err != nil {
			return "", err
		}
		peer, err := freePort()
		if err != nil {
			return "", err
		}
		names = append(names, fmt.Sprintf("etcd-%d", i))
		clients = append(clients, fmt.Sprintf("https://127.0.0.1:%d", client))
		peers = append(peers, fmt.Sprintf("https://127.0.0.1:%d", peer))
	}
	var initial []string
	for i, name := range names {
		initial = append(initial, name+"="+peers[i])
	}
	for i, name := range names {
		if err := u.run("etcd", name, "--name="+name, "--data-dir="+filepath.Join(u.dir, name), "--listen-client-urls="+clients[i],
			"--advertise-client-urls="+clients[i], "--listen-peer-urls="+peers[i], "--initial-advertise-peer-urls="+peers[i],
			"--initial-cluster="+strings.Join(initial, ","), "--cert-file="+cert.cert, "--key-file="+cert.key, "--client-cert-auth",
			"--trusted-ca-file="+u.certs.file, "--peer-cert-file="+cert.cert, "--peer-key-file="+cert.key, "--peer-client-cert-auth",
			"--peer-trusted-ca-file="+u.certs.file); err != nil {
			return "", err
		}
	}
	return strings.Join(clients, ","), nil
}

func (u *upstream) startAPIServer(ctx context.Context, etcds string) error {
	policy, err := auditPolicy(u.dir)
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	server, err := u.certs.issue("kube-apiserver", "kube-apiserver")
	if err != nil {
		return err
	}
	var admission []string
	if u.nodesAreObjects {
		admission = []string{"--disable-admission-plugins=TaintNodesByCondition"}
	}
	if err := u.run("kube-apiserver", "kube-apiserver", append(admission, "--etcd-servers="+etcds, "--etcd-cafile="+u.certs.file, "--etcd-certfile="+server.cert,
		"--etcd-keyfile="+server.key, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.96.0.0/16", "--tls-cert-file="+server.cert, "--tls-private-key-file="+server.key,
		"--client-ca-file="+u.certs.file, "--authorization-mode=Node,RBAC", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+server.key, "--service-account-signing-key-file="+server.key, "--allow-privileged=true",
		"--enable-bootstrap-token-auth=false", "--audit-policy-file="+policy, "--audit-log-path=-")...); err != nil {
		return err
	}
	admin, err := u.certs.issue("admin", "kubernetes-admin", "system:masters")
	if err != nil {
		return err
	}
	u.config = &rest.Config{Host: fmt.Sprintf("https://127.0.0.1:%d", port),
		TLSClientConfig: rest.TLSClientConfig{CAFile: u.certs.file, CertFile: admin.cert, KeyFile: admin.key}}
	return u.running[len(u.running)-1].await(ctx, "the API is ready", func(ctx context.Context) error { return healthy(ctx, u.config) })
}

const schedulerSettings = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection:
  leaderElect: false
clientConnection:
  kubeconfig: %s
  qps: 5000
  burst: 5000
  contentType: application/vnd.kubernetes.protobuf
`

func (u *upstream) startControllers(ctx context.Context) error {
	serviceAccount := u.certs.path("kube-apiserver.key")
	controllers, schedulerConfig := "*", filepath.Join(u.dir, "scheduler.yaml")
	if u.nodesAreObjects {
		controllers = "*,-node-lifecycle-controller"
	}
	for _, c := range []struct {
		program string
		args    []string
	}{
		// There is no other of either, and on a busy machine they would lose their leases and end. The scheduler's requests are not
		// limited, as in scheduler_perf.
		{"kube-scheduler", []string{"--config=" + schedulerConfig}},
		{"kube-controller-manager", []string{"--leader-elect=false", "--controllers=" + controllers, "--use-service-account-credentials", "--service-account-private-key-file=" + serviceAccount,
			"--root-ca-file=" + u.certs.file, "--cluster-signing-cert-file=" + u.certs.file, "--cluster-signing-key-file=" + u.certs.path("ca.key")}},
	} {
		cert, err := u.certs.issue(c.program, "system:"+c.program)
		if err != nil {
			return err
		}
		kubeconfig := u.certs.path(c.program + ".kubeconfig")
		if err := u.writeKubeconfig(kubeconfig, cert); err != nil {
			return err
		}
		if c.program == "kube-scheduler" {
			if err := os.WriteFile(schedulerConfig, fmt.Appendf(nil, schedulerSettings, kubeconfig), 0o600); err != nil {
				return err
			}
		} else {
			c.args = append(c.args, "--kubeconfig="+kubeconfig)
		}
		port, err := freePort()
		if err != nil {
			return err
		}
		if err := u.run(c.program, c.program, append([]string{"--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port)}, c.args...)...); err != nil {
			return err
		}
		config := rest.CopyConfig(u.config)
		config.Host = fmt.Sprintf("https://127.0.0.1:%d", port)
		config.TLSClientConfig = rest.TLSClientConfig{Insecure: true} // it made its own certificate
		if err := u.running[len(u.running)-1].await(ctx, "it is healthy", func(ctx context.Context) error { return alive(ctx, config) }); err != nil {
			return err
		}
	}
	return nil
}

func (u *upstream) writeKubeconfig(path string, cert pair) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: u.config.Host, CertificateAuthority: u.certs.file}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificate: cert.cert, ClientKey: cert.key}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	return clientcmd.WriteToFile(*config, path)
}

// run starts a program.
func (u *upstream) run(program, name string, args ...string) error {
	p, err := startProcess(filepath.Join(u.dir, name+".log"), filepath.Join(u.programs, program), args...)
	if err != nil {
		return fmt.Errorf("%w (`make upstream` builds the programs)", err)
	}
	u.running = append(u.running, p)
	return nil
}

func (u *upstream) stop() error {
	var errs []error
	for _, p := range slices.Backward(u.running) {
		errs = append(errs, p.stop(20*time.Second))
	}
	return errors.Join(errs...)
}

func (u *upstream) admin() *rest.Config { return u.config }
func (u *upstream) endpoints() []dial   { return []dial{new(net.Dialer).DialContext} }

func (u *upstream) processes() (pids []int, err error) {
	for _, p := range u.running {
		select {
		case <-p.done:
			return nil, fmt.Errorf("%s has ended; its log ends with:\n%s", p.cmd.Path, p.end())
		default:
			pids = append(pids, p.pid())
		}
	}
	return pids, nil
}

// alive asks a component that is not an API server whether it is healthy.
func alive(ctx context.Context, config *rest.Config) error {
	set, err := clientset(config)
	if err != nil {
		return err
	}
	_, err = set.Discovery().RESTClient().Get().AbsPath("/healthz").DoRaw(ctx)
	return err
}
