// Package manifests reads webhooks and policies from files of a master (KEP-5793, manifest-based admission control), with upstream's loaders:
// the configuration of a plugin in the file of --admission-control-config-file names a directory (staticManifestsDir). Such hooks apply before
// any object can be stored, and also to the configurations of admission that are objects, which hooks that are objects never see. The configuration of
// a plugin for webhooks may also name a kubeconfig file with the credentials by which masters identify themselves to webhooks.
//
// The files are read when the master starts, where an error is fatal, and again when they change, where an error leaves what was read before.
package manifests

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/admission/plugin/manifest/metrics"
	policyconfig "k8s.io/apiserver/pkg/admission/plugin/policy/config"
	policysource "k8s.io/apiserver/pkg/admission/plugin/policy/manifest/source"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	upstream "k8s.io/apiserver/pkg/admission/plugin/webhook"
	webhookconfig "k8s.io/apiserver/pkg/admission/plugin/webhook/config"
	webhooksource "k8s.io/apiserver/pkg/admission/plugin/webhook/manifest/source"
	policyloader "k8s.io/kubernetes/pkg/admission/plugin/policy/manifest/loader"
	webhookloader "k8s.io/kubernetes/pkg/admission/plugin/webhook/manifest/loader"

	"github.com/kontiki/kontiki/api/extension/admission/policies"
	"github.com/kontiki/kontiki/api/extension/webhook"
)

// Plugins are the plugins that have a configuration.
var Plugins = []string{"MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook"}

// Hooks are those of the files as they were last read. Read-only.
type Hooks struct {
	MutatingPolicies                     []mutating.PolicyHook
	ValidatingPolicies                   []validating.PolicyHook
	MutatingWebhooks, ValidatingWebhooks []upstream.WebhookAccessor
}

// Same says whether nothing was read between two Hooks.
func (h *Hooks) Same(other *Hooks) bool {
	return same(h.MutatingPolicies, other.MutatingPolicies) && same(h.ValidatingPolicies, other.ValidatingPolicies) &&
		same(h.MutatingWebhooks, other.MutatingWebhooks) && same(h.ValidatingWebhooks, other.ValidatingWebhooks)
}

func same[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// Manifests are the files of a master. A nil Manifests has none. It is safe for concurrent use.
type Manifests struct {
	mutatingPolicies   interface{ Hooks() []mutating.PolicyHook }
	validatingPolicies interface {
		Hooks() []validating.PolicyHook
	}
	mutatingWebhooks   webhookSource
	validatingWebhooks webhookSource
	loops              []func(context.Context)

	// MutatingCredentials and ValidatingCredentials are those of the kubeconfig files that the configurations of the plugins for webhooks name;
	// nil means none.
	MutatingCredentials, ValidatingCredentials webhook.Credentials
}

type webhookSource interface {
	Webhooks() []upstream.WebhookAccessor
}

// Open reads the files that the configurations of plugins name; it returns nil if they name none. config returns the configuration of a plugin,
// empty if it has none.
func Open(config func(plugin string) ([]byte, error)) (*Manifests, error) {
	m := &Manifests{}
	for _, plugin := range Plugins {
		data, err := config(plugin)
		if err == nil && len(data) > 0 {
			err = m.open(plugin, bytes.NewReader(data))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", plugin, err)
		}
	}
	if len(m.loops) == 0 && m.MutatingCredentials == nil && m.ValidatingCredentials == nil {
		return nil, nil
	}
	return m, nil
}

// source is a directory, as upstream's loaders keep it.
type source interface {
	LoadInitial() error
	RunReloadLoop(ctx context.Context)
}

// open reads the directory that a plugin's configuration names, if it names one.
func (m *Manifests) open(plugin string, config io.Reader) error {
	dir, err := m.directory(plugin, config)
	if err != nil || dir == "" {
		return err
	}
	var opened source
	switch plugin {
	case "MutatingAdmissionPolicy":
		s := policysource.NewStaticPolicySource(dir, "", func(p *admissionv1.MutatingAdmissionPolicy) (mutating.PolicyEvaluator, error) {
			compiled := policies.CompileMutating(p)
			return compiled, compiled.Error
		}, func(dir string) ([]*admissionv1.MutatingAdmissionPolicy, []*admissionv1.MutatingAdmissionPolicyBinding, string, error) {
			read, err := policyloader.LoadMutatingManifestsFromDirectory(dir)
			if err != nil {
				return nil, nil, "", err
			}
			return read.Policies, read.Bindings, read.Hash, nil
		}, func(b *admissionv1.MutatingAdmissionPolicyBinding) string { return b.Spec.PolicyName }, metrics.MAPManifestType)
		m.mutatingPolicies, opened = s, s
	case "ValidatingAdmissionPolicy":
		s := policysource.NewStaticPolicySource(dir, "", func(p *admissionv1.ValidatingAdmissionPolicy) (validating.Validator, error) {
			compiled := policies.CompileValidating(p)
			return compiled, compiled.CompileError()
		}, func(dir string) ([]*admissionv1.ValidatingAdmissionPolicy, []*admissionv1.ValidatingAdmissionPolicyBinding, string, error) {
			read, err := policyloader.LoadValidatingManifestsFromDirectory(dir)
			if err != nil {
				return nil, nil, "", err
			}
			return read.Policies, read.Bindings, read.Hash, nil
		}, func(b *admissionv1.ValidatingAdmissionPolicyBinding) string { return b.Spec.PolicyName }, metrics.VAPManifestType)
		m.validatingPolicies, opened = s, s
	case "MutatingAdmissionWebhook":
		s := webhooksource.NewMutatingSource(dir, "", func(dir string) ([]*admissionv1.MutatingWebhookConfiguration, string, error) {
			read, err := webhookloader.LoadMutatingManifests(dir)
			if err != nil {
				return nil, "", err
			}
			return read.Configurations, read.Hash, nil
		})
		m.mutatingWebhooks, opened = s, s
	case "ValidatingAdmissionWebhook":
		s := webhooksource.NewValidatingSource(dir, "", func(dir string) ([]*admissionv1.ValidatingWebhookConfiguration, string, error) {
			read, err := webhookloader.LoadValidatingManifests(dir)
			if err != nil {
				return nil, "", err
			}
			return read.Configurations, read.Hash, nil
		})
		m.validatingWebhooks, opened = s, s
	}
	if err := opened.LoadInitial(); err != nil {
		return fmt.Errorf("staticManifestsDir: %w", err)
	}
	m.loops = append(m.loops, opened.RunReloadLoop)
	return nil
}

// directory returns the directory that a plugin's configuration names, "" for none, and opens the credentials that it names.
func (m *Manifests) directory(plugin string, config io.Reader) (string, error) {
	switch plugin {
	case "MutatingAdmissionPolicy":
		c, err := policyconfig.LoadMutatingConfig(config)
		if err != nil {
			return "", err
		}
		return c.StaticManifestsDir, nil
	case "ValidatingAdmissionPolicy":
		c, err := policyconfig.LoadValidatingConfig(config)
		if err != nil {
			return "", err
		}
		return c.StaticManifestsDir, nil
	}
	c, err := webhookconfig.LoadConfig(config)
	if err != nil {
		return "", err
	}
	if c.KubeConfigFile == "" {
		return c.StaticManifestsDir, nil
	}
	credentials, err := webhook.OpenCredentials(c.KubeConfigFile)
	if err != nil {
		return "", fmt.Errorf("kubeConfigFile: %w", err)
	}
	if plugin == "MutatingAdmissionWebhook" {
		m.MutatingCredentials = credentials
	} else {
		m.ValidatingCredentials = credentials
	}
	return c.StaticManifestsDir, nil
}

// Hooks returns the hooks as they are now.
func (m *Manifests) Hooks() (h Hooks) {
	if m == nil {
		return h
	}
	if s := m.mutatingPolicies; s != nil {
		h.MutatingPolicies = s.Hooks()
	}
	if s := m.validatingPolicies; s != nil {
		h.ValidatingPolicies = s.Hooks()
	}
	if s := m.mutatingWebhooks; s != nil {
		h.MutatingWebhooks = s.Webhooks()
	}
	if s := m.validatingWebhooks; s != nil {
		h.ValidatingWebhooks = s.Webhooks()
	}
	return h
}

// Run reads the files again when they change, until the context ends.
func (m *Manifests) Run(ctx context.Context) {
	if m == nil {
		return
	}
	var wg sync.WaitGroup
	for _, loop := range m.loops {
		wg.Go(func() { loop(ctx) })
	}
	wg.Wait()
}
