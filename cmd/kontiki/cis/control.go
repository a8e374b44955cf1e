package cis

import (
	"fmt"
	"path/filepath"
	"time"
)

// oneProcess is why the benchmark's files of single components do not exist.
const oneProcess = "it is a part of the process kontiki server, which has one configuration file (1.1.1)"

// server returns paths below the master's data directory, if its flags say where that is.
func server(names ...string) func(*Facts) []string {
	return func(f *Facts) (out []string) {
		if dir := f.Flags["data-dir"]; dir != "" {
			for _, name := range names {
				out = append(out, filepath.Join(dir, name))
			}
		}
		return out
	}
}

func configFile(f *Facts) []string { return []string{f.Config} }

// controlPlane is section 1.
var controlPlane = []check{
	{"1.1.1", "Configuration of the API server: mode 600", modes("configuration file", 0o600, configFile)},
	{"1.1.2", "Configuration of the API server: owner root", ofRoot("configuration file", configFile)},
	{"1.1.3", "Configuration of the controllers: mode 600", never(oneProcess)},
	{"1.1.4", "Configuration of the controllers: owner root", never(oneProcess)},
	{"1.1.5", "Configuration of the scheduler: mode 600", never(oneProcess)},
	{"1.1.6", "Configuration of the scheduler: owner root", never(oneProcess)},
	{"1.1.7", "Configuration of the store: mode 600", never(oneProcess)},
	{"1.1.8", "Configuration of the store: owner root", never(oneProcess)},
	{"1.1.9", "Files of the network plug-in: mode 600", never("the pod network is a part of the agent: there are no CNI files")},
	{"1.1.10", "Files of the network plug-in: owner root", never("the pod network is a part of the agent: there are no CNI files")},
	{"1.1.11", "Data of the store: mode 700", modes("data directory of a master", 0o700, server("", "raft"))},
	{"1.1.12", "Data of the store: owner", ofRoot("data directory of a master", server("", "raft"))},
	{"1.1.13", "Administrator's kubeconfig: mode 600", modes("administrator's kubeconfig", 0o600, server("admin.kubeconfig"))},
	{"1.1.14", "Administrator's kubeconfig: owner root", ofRoot("administrator's kubeconfig", server("admin.kubeconfig"))},
	{"1.1.15", "Scheduler's kubeconfig: mode 600", never("the scheduler reaches the API within the process, without a kubeconfig")},
	{"1.1.16", "Scheduler's kubeconfig: owner root", never("the scheduler reaches the API within the process, without a kubeconfig")},
	{"1.1.17", "Controllers' kubeconfig: mode 600", never("controllers reach the API within the process, without a kubeconfig")},
	{"1.1.18", "Controllers' kubeconfig: owner root", never("controllers reach the API within the process, without a kubeconfig")},
	{"1.1.19", "Certificates and keys: owner root", ofRoot("master's identity", server("identity.json", "member.json"))},
	{"1.1.20", "Certificates: mode 644", modes("master's identity, which has certificates and keys", 0o600, server("identity.json", "member.json"))},
	{"1.1.21", "Keys: mode 600", modes("master's identity, with tokens to join", 0o600, server("identity.json", "member.json", "token-master", "token-worker"))},

	{"1.2.1", "Anonymous requests are refused", anonymous},
	{"1.2.2", "No file with static tokens", built("there is no such file: tokens are those of service accounts, of OpenID Connect issuers and of a webhook")},
	{"1.2.3", "External addresses of Services are refused", plugin("DenyServiceExternalIPs", fails("add DenyServiceExternalIPs to --enable-admission-plugins"))},
	{"1.2.4", "Masters authenticate themselves to workers", built("masters show workers a certificate of the cluster's CA with the role of a master")},
	{"1.2.5", "Masters check the certificates of workers", built("masters accept certificates of the cluster's CA for this very node only")},
	{"1.2.6", "Not everything is allowed to everybody", built("requests are decided by node authorization and RBAC; nothing switches that off")},
	{"1.2.7", "Node authorization", built("nodes reach what their pods use, as with --authorization-mode=Node")},
	{"1.2.8", "RBAC", built("everybody else's requests are decided by RBAC")},
	{"1.2.9", "Limit for events", plugin("EventRateLimit", fails("add EventRateLimit to --enable-admission-plugins, with limits in --admission-control-config-file"))},
	{"1.2.10", "Requests pass admission", flag("enable-admission-plugins", func(value string) answer {
		if has(value, "AlwaysAdmit") {
			return fails("remove AlwaysAdmit from --enable-admission-plugins")
		}
		return passes("--enable-admission-plugins does not have AlwaysAdmit")
	})},
	{"1.2.11", "Images are pulled with the pod's own credentials", plugin("AlwaysPullImages",
		manual("AlwaysPullImages is not on. Workers remember with which credentials an image was pulled, and ask the registry whether a pod with others may use it, so decide if that is enough"))},
	{"1.2.12", "Service accounts of pods are checked", keeps("ServiceAccount")},
	{"1.2.13", "No objects in namespaces that end", keeps("NamespaceLifecycle")},
	{"1.2.14", "Nodes change only what is theirs", keeps("NodeRestriction")},
	{"1.2.15", "No profiles from the API", profiling},
	{"1.2.16", "Audit log", flag("audit-log-path", func(value string) answer {
		if value == "" {
			return fails("set --audit-log-path, and --audit-policy-file, without which nothing is recorded")
		}
		return passes("--audit-log-path is " + value)
	})},
	{"1.2.17", "Audit log is kept for 30 days", atLeast("audit-log-maxage", 30, "days")},
	{"1.2.18", "Ten files of the audit log are kept", atLeast("audit-log-maxbackup", 10, "files")},
	{"1.2.19", "Files of the audit log have 100 MB", atLeast("audit-log-maxsize", 100, "MB")},
	{"1.2.20", "Requests have a time limit", flag("request-timeout", func(value string) answer {
		if limit, err := time.ParseDuration(value); err != nil || limit <= 0 || limit > 5*time.Minute {
			return manual(fmt.Sprintf("--request-timeout is %s: decide if requests may take that long", value))
		}
		return passes("--request-timeout is " + value)
	})},
	{"1.2.21", "Tokens of service accounts that were deleted are refused", built("each use of a token looks up its service account, and the pod, node or Secret to which it is bound")},
	{"1.2.22", "Tokens of service accounts are signed with a key of their own", built("the key signs nothing else; kontiki cluster certs rotate-token-key replaces it")},
	{"1.2.23", "The API authenticates itself to the store", never("the store is in the API's process; section 2 is about its connections to other masters")},
	{"1.2.24", "The API has a certificate", built("masters serve the API with certificates of the cluster's CA, which they renew by themselves")},
	{"1.2.25", "Clients' certificates are checked with a CA", built("the cluster's CA, and a CA that signs certificates for clients of the API only")},
	{"1.2.26", "The API checks the certificate of the store", never("the store is in the API's process; section 2 is about its connections to other masters")},
	{"1.2.27", "Secrets are encrypted in the store", built("Secrets are encrypted (AES-GCM) before they are proposed to Raft: no log, snapshot or backup has them in plain text; other resources are not")},
	{"1.2.28", "The keys of Secrets are kept elsewhere", flag("encryption-provider-config", func(value string) answer {
		if value == "" {
			return manual("AES-GCM with keys in identity.json, which kontiki secrets rotate replaces. A key management service can hold them: --encryption-provider-config with a KMS v2 plug-in")
		}
		return passes("a KMS v2 plug-in holds the key: --encryption-provider-config is " + value)
	})},
	{"1.2.29", "Strong ciphers", ciphers},
	{"1.2.30", "Tokens of service accounts are not valid for longer than they say", built("the tokens of pods expire when they say, within about an hour; nothing extends them")},

	{"1.3.1", "Pods that have ended are removed", manualGC},
	{"1.3.2", "No profiles from the controllers", profiling},
	{"1.3.3", "Each controller has a service account", built("each controller acts as its own service account in kube-system, with the roles of Kubernetes")},
	{"1.3.4", "Controllers sign tokens with a key of their own", built("the key of 1.2.22")},
	{"1.3.5", "Pods get the CA of the API", rootCA},
	{"1.3.6", "Workers' serving certificates are renewed", built("workers renew them by themselves at two thirds of their lifetime")},
	{"1.3.7", "The controllers' port is local", never("the controllers have no port of their own")},

	{"1.4.1", "No profiles from the scheduler", profiling},
	{"1.4.2", "The scheduler's port is local", never("the scheduler has no port of its own")},
}

func anonymous(f *Facts) answer {
	if file := f.Flags["authentication-config"]; file != "" {
		return manual("see what --authentication-config " + file + " says of anonymous requests")
	}
	return flag("anonymous-auth", func(value string) answer {
		if value == "false" {
			return passes("--anonymous-auth is false")
		}
		return fails("set --anonymous-auth=false, or limit the paths in --authentication-config; RBAC lets anonymous requests see /healthz, /version and the like only")
	})(f)
}

func profiling(f *Facts) answer {
	return flag("profiling", func(value string) answer {
		if value == "false" {
			return passes("--profiling is false")
		}
		return fails("set --profiling=false; profiles, at /debug/pprof, are for those who may get that path")
	})(f)
}

func ciphers(f *Facts) answer {
	switch {
	case f.weakErr != nil:
		return manual(fmt.Sprintf("a handshake with the API could not be tried: %v", f.weakErr))
	case f.weak != "":
		return fails("the API agreed to a handshake with " + f.weak)
	}
	return passes("the API refuses TLS before 1.2, and the cipher suites that Go lists as not secure, such as those without forward secrecy")
}

func manualGC(*Facts) answer {
	return manual("pods that have ended stay until their owner, a ttlSecondsAfterFinished or somebody removes them: there is no threshold. Decide if Jobs need ttlSecondsAfterFinished")
}

func rootCA(f *Facts) answer {
	var lacking []string
	for _, n := range f.namespaces {
		if !f.maps[n.Name] && n.DeletionTimestamp == nil {
			lacking = append(lacking, "namespace "+n.Name)
		}
	}
	if len(lacking) > 0 {
		return fails("no ConfigMap kube-root-ca.crt", lacking...)
	}
	return passes("every namespace has the ConfigMap kube-root-ca.crt, which is mounted with tokens")
}

const (
	ownPort = "masters reach each other at one port (6444) with TLS 1.3, and both sides show certificates of the cluster's CA with the role of a master"
	noAuto  = "there are no self-signed certificates: a host gets its own from the cluster's CA when it joins with a token"
)

// store is section 2.
var store = []check{
	{"2.1", "The store's port has a certificate", built(ownPort)},
	{"2.2", "Clients of the store show certificates", built("the store has no clients but the process that it is in")},
	{"2.3", "The store's certificate is not self-signed", built(noAuto)},
	{"2.4", "Connections between replicas are encrypted", built(ownPort)},
	{"2.5", "Replicas show each other certificates", built(ownPort)},
	{"2.6", "Replicas' certificates are not self-signed", built(noAuto)},
	{"2.7", "The store has a CA of its own", built("certificates that CertificateSigningRequests get are of another CA, which the masters' port does not trust; those of workers do not have the role of a master")},
}

// configuration is section 3.
var configuration = []check{
	{"3.1.1", "People do not use client certificates", person("see who uses the administrator's kubeconfig and certificates of CertificateSigningRequests; OpenID Connect is there for people (--authentication-config)")},
	{"3.1.2", "People do not use tokens of service accounts", person("see who has Secrets of type kubernetes.io/service-account-token and tokens of kubectl create token")},
	{"3.1.3", "People do not use bootstrap tokens", flag("enable-bootstrap-token-auth", func(value string) answer {
		if value == "false" {
			return passes("bootstrap tokens are not accepted as credentials")
		}
		return manual("--enable-bootstrap-token-auth is on: see who has such tokens")
	})},
	{"3.2.1", "There is an audit policy", flag("audit-policy-file", func(value string) answer {
		if value == "" {
			return fails("set --audit-policy-file, and --audit-log-path")
		}
		return passes("--audit-policy-file is " + value)
	})},
	{"3.2.2", "The audit policy has what matters", flag("audit-policy-file", func(value string) answer {
		if value == "" {
			return fails("there is no audit policy")
		}
		return manual("see that " + value + " records access to Secrets, ConfigMaps and TokenReviews (at Metadata), changes of pods and workloads, and exec, port-forward and proxy")
	})},
}
