package admission

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	upstream "k8s.io/apiserver/pkg/admission/plugin/webhook"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/extension/admission/manifests"
	"github.com/kontiki/kontiki/api/extension/admission/policies"
	"github.com/kontiki/kontiki/api/extension/admission/webhooks"
	"github.com/kontiki/kontiki/api/extension/webhook"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/kv"
)

// prefix is that of the keys of all configurations. The order of the keys is that in which upstream calls webhooks and policies: by name.
const prefix = "/" + admissionv1.GroupName + "/"

var prefixEnd = kv.PrefixEnd(prefix)

// Config has what Configured is made of.
type Config struct {
	// Pods reaches the pods of services that serve webhooks.
	Pods webhook.Pods
	// Local permits webhooks at addresses of this host. It is for tests.
	Local bool
	// Authorizer answers expressions that ask it.
	Authorizer authorizer.UnconditionalAuthorizer
	// Manifests are the hooks in files of this master; nil means none.
	Manifests *manifests.Manifests
	Log       *slog.Logger
}

// Configured has what the stored configurations compile to. It is safe for concurrent use.
type Configured struct {
	authorizer authorizer.UnconditionalAuthorizer
	calls      webhooks.Calls
	manifests  *manifests.Manifests
	log        *slog.Logger

	now atomic.Pointer[set]

	mu       sync.Mutex
	compiled map[string]compiled // by key
}

// New returns a Configured that has not read anything yet.
func New(c Config) *Configured {
	calls := webhooks.Calls{Pods: c.Pods, Local: c.Local, Authorizer: c.Authorizer}
	if m := c.Manifests; m != nil {
		calls.MutatingCredentials, calls.ValidatingCredentials = m.MutatingCredentials, m.ValidatingCredentials
	}
	return &Configured{authorizer: c.Authorizer, calls: calls, manifests: c.Manifests, log: c.Log, compiled: map[string]compiled{}}
}

// compiled is a stored configuration as it is used. Only what its kind has is set.
type compiled struct {
	version *kv.Version
	hooks   []*webhooks.Hook // of a webhook configuration

	validating        *validating.PolicyHook // without bindings
	validatingBinding *admissionv1.ValidatingAdmissionPolicyBinding
	mutating          *mutating.PolicyHook // without bindings
	mutatingBinding   *admissionv1.MutatingAdmissionPolicyBinding
}

// set is what all configurations of one state compile to.
type set struct {
	versions []*kv.Version // that it was made of
	files    manifests.Hooks
	table    *registry.Table
	static   hooks // those of the files
	all      hooks // those of the files, then those that are objects
	plans    plans
}

// hooks are hooks of all kinds, in order.
type hooks struct {
	mutatingPolicies   []mutating.PolicyHook
	mutatingWebhooks   []*webhooks.Hook
	validatingPolicies []validating.PolicyHook
	validatingWebhooks []*webhooks.Hook
}

// of returns the hooks in files. Who may write a master's files may also name addresses of this host, as for a webhook beside the master.
func (c *Configured) of(files manifests.Hooks) hooks {
	calls := c.calls
	calls.Local = true
	made := func(accessors []upstream.WebhookAccessor) (out []*webhooks.Hook) {
		for _, accessor := range accessors {
			out = append(out, webhooks.Of(accessor, calls))
		}
		return out
	}
	return hooks{files.MutatingPolicies, made(files.MutatingWebhooks), files.ValidatingPolicies, made(files.ValidatingWebhooks)}
}

// empty says whether the set has no hooks at all.
func (s *set) empty() bool {
	return len(s.all.mutatingPolicies)+len(s.all.mutatingWebhooks)+len(s.all.validatingPolicies)+len(s.all.validatingWebhooks) == 0
}

// of says whether a view has exactly the configurations of the set.
func (s *set) of(view kv.View) bool {
	if view.Count(prefix, prefixEnd) != len(s.versions) {
		return false
	}
	if len(s.versions) == 0 {
		return true
	}
	at, same := 0, true
	view.Range(prefix, prefixEnd, func(v *kv.Version) bool {
		same = at < len(s.versions) && s.versions[at] == v
		at++
		return same
	})
	return same && at == len(s.versions)
}

// at returns the set of the state that a request is prepared against.
func (c *Configured) at(a *objects.Attributes) *set {
	files := c.manifests.Hooks()
	if s := c.now.Load(); s != nil && s.table == a.Kinds() && s.files.Same(&files) && s.of(a.View) {
		return s
	}
	return c.read(a, files)
}

// read makes the set of a state. Only what has changed is compiled.
func (c *Configured) read(a *objects.Attributes, files manifests.Hooks) *set {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.now.Load()
	if before != nil && before.table == a.Kinds() && before.files.Same(&files) && before.of(a.View) {
		return before
	}
	s := &set{table: a.Kinds(), files: files}
	s.plans.interfaces.Table = s.table
	if before != nil && before.files.Same(&files) {
		s.static = before.static
	} else {
		s.static = c.of(files)
	}
	s.all = hooks{slices.Clone(s.static.mutatingPolicies), slices.Clone(s.static.mutatingWebhooks), slices.Clone(s.static.validatingPolicies), slices.Clone(s.static.validatingWebhooks)}
	all := map[string]compiled{}
	bindings := map[string][]*admissionv1.ValidatingAdmissionPolicyBinding{}
	mutatingBindings := map[string][]*admissionv1.MutatingAdmissionPolicyBinding{}
	a.View.Range(prefix, prefixEnd, func(v *kv.Version) bool {
		s.versions = append(s.versions, v)
		one, ok := c.compiled[v.Key]
		if !ok || one.version != v {
			if err := contain.Run(func() (err error) {
				one, err = c.compile(a, v)
				return err
			}); err != nil {
				c.log.Error("a configuration of admission cannot be read", "key", v.Key, "error", err, "stack", contain.Stack(err))
				one = compiled{version: v}
			}
		}
		all[v.Key] = one
		if b := one.validatingBinding; b != nil {
			bindings[b.Spec.PolicyName] = append(bindings[b.Spec.PolicyName], b)
		}
		if b := one.mutatingBinding; b != nil {
			mutatingBindings[b.Spec.PolicyName] = append(mutatingBindings[b.Spec.PolicyName], b)
		}
		return true
	})
	for _, v := range s.versions {
		one := all[v.Key]
		for _, h := range one.hooks {
			if _, is := h.GetMutatingWebhook(); is {
				s.all.mutatingWebhooks = append(s.all.mutatingWebhooks, h)
			} else {
				s.all.validatingWebhooks = append(s.all.validatingWebhooks, h)
			}
		}
		if p := one.validating; p != nil && len(bindings[p.Policy.Name]) > 0 {
			hook := *p
			hook.Bindings = bindings[p.Policy.Name]
			s.all.validatingPolicies = append(s.all.validatingPolicies, hook)
		}
		if p := one.mutating; p != nil && len(mutatingBindings[p.Policy.Name]) > 0 {
			hook := *p
			hook.Bindings = mutatingBindings[p.Policy.Name]
			s.all.mutatingPolicies = append(s.all.mutatingPolicies, hook)
		}
	}
	for key, before := range c.compiled {
		if all[key].version == before.version {
			continue
		}
		for _, h := range before.hooks {
			h.Close()
		}
	}
	c.compiled = all
	c.now.Store(s)
	return s
}

// compile compiles a stored configuration.
func (c *Configured) compile(a *objects.Attributes, v *kv.Version) (compiled, error) {
	out := compiled{version: v}
	kind, ok := kindOf(a.Kinds(), v.Key)
	if !ok {
		return out, nil
	}
	obj, err := a.Service().Decode(kind, v)
	if err != nil {
		return out, err
	}
	switch config := obj.(type) {
	case *admissionv1.MutatingWebhookConfiguration:
		out.hooks = webhooks.Mutating(config, c.calls)
	case *admissionv1.ValidatingWebhookConfiguration:
		out.hooks = webhooks.Validating(config, c.calls)
	case *admissionv1.ValidatingAdmissionPolicy:
		out.validating = &validating.PolicyHook{Policy: config, Evaluator: policies.CompileValidating(config)}
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		out.validatingBinding = config
	case *admissionv1.MutatingAdmissionPolicy:
		evaluator := policies.CompileMutating(config)
		out.mutating = &mutating.PolicyHook{Policy: config, Evaluator: evaluator, ConfigurationError: evaluator.Error}
	case *admissionv1.MutatingAdmissionPolicyBinding:
		out.mutatingBinding = config
	}
	return out, nil
}
