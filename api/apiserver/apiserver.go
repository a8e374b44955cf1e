// Package apiserver assembles the API: the table of kinds, the object service with its admission and allocators, authentication,
// and the REST and gRPC fronts. Masters and tests create one.
package apiserver

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kubernetes/pkg/capabilities"

	"github.com/kontiki/kontiki/api/admission"
	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/api/allocate"
	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/auth/authz"
	"github.com/kontiki/kontiki/api/auth/review"
	"github.com/kontiki/kontiki/api/client"
	extension "github.com/kontiki/kontiki/api/extension/admission"
	"github.com/kontiki/kontiki/api/extension/admission/manifests"
	"github.com/kontiki/kontiki/api/extension/aggregation"
	"github.com/kontiki/kontiki/api/extension/conversion"
	"github.com/kontiki/kontiki/api/extension/definitions"
	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/journal"
	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/quota"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
	"github.com/kontiki/kontiki/api/rest"
	"github.com/kontiki/kontiki/api/rpc"
	"github.com/kontiki/kontiki/api/seal"
	"github.com/kontiki/kontiki/api/usage"
	"github.com/kontiki/kontiki/api/usage/history"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/internal/tracing"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Issuer is the issuer (and the audience) of service account tokens.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// nodePrefixBits is the length of a node's part of the pod range.
const nodePrefixBits = 24

// Config has what the API is made of.
type Config struct {
	Store objects.Store
	// SealKeys are the keys that encrypt Secrets, by name; SealWith names the one for new writes.
	SealKeys map[string][]byte
	SealWith string
	// ServiceAccountKey signs tokens; every master has the same one.
	ServiceAccountKey crypto.Signer
	// Roots returns the CAs of client certificates.
	Roots func() *x509.CertPool
	// Authorizer decides what users may do; nil means the cluster's own rules.
	Authorizer auth.Authorizer
	// Admit may refuse a client certificate that is otherwise valid; nil refuses none.
	Admit                  func(*x509.Certificate) error
	ServiceRange, PodRange netip.Prefix
	// BootstrapTokens accepts the tokens of Secrets of type bootstrap.kubernetes.io/token as credentials.
	BootstrapTokens bool
	// Tokens authenticate tokens that this cluster has not issued, in this order; their audience is Issuer.
	Tokens []authenticator.Token
	// Anonymous says which requests need no credential; nil means all.
	Anonymous *apiserverconfig.AnonymousAuthConfig
	// TolerationSeconds is for pods on nodes that are not ready or not reachable; nil means Kubernetes' default.
	TolerationSeconds *int64
	// Admission says which admission steps run, beside those that always do, and how.
	Admission admission.Config
	// ForbidPrivileged refuses pods with privileged containers. It applies to the whole process: the first API decides.
	ForbidPrivileged bool
	// Agents has the credentials for the nodes' agents; if it is nil, requests that need an agent fail with 503.
	Agents agents.Credentials
	// Metrics counts what the API serves; nil counts nothing.
	Metrics *measure.API
	// Tracer makes the spans of requests; nil makes none.
	Tracer *tracing.Tracer
	// Timeline keeps what this master does to start pods, and Timelines returns what all know of that; nil for nothing.
	Timeline  *timeline.Recorder
	Timelines func(ctx context.Context, pod *corev1.Pod) any
	// Advice returns which requests are advised for the workloads of a namespace, "" for all; nil for no advice.
	Advice func(namespace string) any
	// LocalWebhooks permits webhooks at addresses of this host. It is for tests.
	LocalWebhooks bool
	// Usage has what nodes and pods use, for metrics.k8s.io; nil means that nobody reports it.
	Usage *usage.Directory
	// Journal is this master's journal, which the caller runs; nil means that none is kept.
	Journal *journal.Journal
	// UsageHistory is what was used in the last day, which the caller runs; nil means that it is not recorded.
	UsageHistory *history.Keeper
	Ready        func(context.Context) error
	// Checks are further checks of readiness, which get the API's object service.
	Checks  []Check
	Version version.Info
	Extra   map[string]http.Handler
	// Cluster implements administration of the cluster by gRPC, for authorized callers; nil means that this service is not served.
	Cluster kontikiv1.ClusterServer
	// FrontProxy returns the certificate by which extension API servers know this master; nil if it has none.
	FrontProxy func() (*tls.Certificate, error)
	// Audit records requests, and Limits decides which are served at once, those of both fronts together; nil disables either.
	Audit  *audit.Auditor
	Limits *flow.Control
	// RequestTimeout limits requests that are not long-running; 0 means objects.DefaultRequestTimeout.
	RequestTimeout time.Duration
	Log            *slog.Logger
}

// API is the assembled API of one master.
type API struct {
	Objects       *objects.Service
	Catalog       *registry.Catalog
	Tokens        *auth.Tokens
	Authenticator *auth.Authenticator
	Authorizer    auth.Authorizer
	REST          *rest.Server
	RPC           *rpc.Server
	// Sealer encrypts Secrets; its keys may be replaced.
	Sealer *seal.Sealer
	// KubernetesService is the address of the service default/kubernetes, the first of the service range.
	KubernetesService netip.Addr

	// Aggregated are the group versions that extension API servers serve.
	Aggregated *aggregation.Services
	// Conversions counts the calls of conversion webhooks.
	Conversions *conversion.Metrics

	definitions *definitions.Definitions
	manifests   *manifests.Manifests
}

// New assembles an API.
func New(c Config) (*API, error) {
	capabilities.Setup(!c.ForbidPrivileged, 0) // upstream's validation reads it there
	sealer, err := seal.New(c.SealWith, c.SealKeys)
	if err != nil {
		return nil, err
	}
	if c.TolerationSeconds == nil {
		seconds := int64(admission.DefaultTolerationSeconds)
		c.TolerationSeconds = &seconds
	}
	a := &API{Conversions: conversion.NewMetrics(), Sealer: sealer, Catalog: registry.NewCatalog(builtin.Kinds()), Authorizer: c.Authorizer}
	decode := func(kind *registry.Kind, v *kv.Version) (registry.Object, error) { return a.Objects.Decode(kind, v) }
	if c.Log == nil {
		c.Log = slog.Default()
	}
	reach := &agents.Agents{}
	a.definitions = definitions.New(definitions.Config{Store: c.Store, Catalog: a.Catalog, Decode: decode, Convert: converters(reach, c.LocalWebhooks, a.Conversions), Log: c.Log})
	apiServices, _ := a.Catalog.Table().ByGroupResource(apiregistrationv1.GroupName, "apiservices")
	a.Aggregated = aggregation.New(aggregation.Config{Store: c.Store, Decode: decode, Kind: apiServices, Pods: reach, Certificate: frontProxy(c.FrontProxy), Log: c.Log})
	store := &settling{c.Store, a.definitions}
	c.Store = store
	rules := authz.NewRules(c.Store, a.Catalog.Table())
	own := authz.New(rules)
	if a.Authorizer == nil {
		a.Authorizer = own
	}
	c.Admission.TolerationSeconds, c.Admission.Authorizer = *c.TolerationSeconds, a.Authorizer
	data, err := c.Admission.PluginConfiguration("ResourceQuota")
	if err != nil {
		return nil, fmt.Errorf("the admission configuration: %w", err)
	}
	limited, err := quota.ParseConfiguration(data)
	if err != nil {
		return nil, fmt.Errorf("the admission configuration: %w", err)
	}
	if a.manifests, err = manifests.Open(c.Admission.PluginConfiguration); err != nil {
		return nil, fmt.Errorf("the admission configuration: %w", err)
	}
	dynamic := extension.New(extension.Config{Pods: reach, Local: c.LocalWebhooks, Authorizer: a.Authorizer, Manifests: a.manifests, Log: c.Log})
	c.Admission.Extra = append(append(extension.Steps(dynamic), quota.Step(limited)), c.Admission.Extra...)
	steps, err := admission.Steps(c.Admission)
	if err != nil {
		return nil, err
	}
	services := &allocate.Services{Range: c.ServiceRange, Catalog: a.Catalog}
	a.KubernetesService = services.First()
	if c.Usage == nil {
		c.Usage = usage.NewDirectory(usage.Config{Local: usage.NewLocal(), Log: c.Log})
	}
	computers := c.Usage.Computers(func() client.View { return own.Nodes.Client.View() })
	computers[schema.GroupResource{Resource: "componentstatuses"}] = components(c.Ready)
	a.Objects, err = objects.New(objects.Config{
		Store: c.Store, Catalog: a.Catalog, Sealer: sealer, Authorizer: a.Authorizer, Rules: rules,
		Admission: steps, Metrics: c.Metrics, Tracer: c.Tracer, Timeline: c.Timeline,
		Creators: review.Creators(review.Config{Authorizer: a.Authorizer, Rules: own, Token: func(ctx context.Context, token string, audiences []string) (user.Info, []string, error) {
			return a.Authenticator.Token(ctx, token, audiences)
		}}),
		Computers: computers,
		Allocators: map[schema.GroupResource]objects.Allocator{
			{Resource: "services"}: services,
			definitions.Resource:   &definitions.Names{Catalog: a.Catalog, Decode: decode},
			{Group: networkingv1.GroupName, Resource: "ipaddresses"}: &allocate.IPAddresses{Catalog: a.Catalog},
			{Resource: "nodes"}: &allocate.Nodes{Range: c.PodRange, Bits: nodePrefixBits, Forget: func(node string) []kv.Op {
				return []kv.Op{objects.RemoveFence(objects.WorkerFence(node))}
			}},
		},
	})
	if err != nil {
		return nil, err
	}
	rules.Decode = a.Objects.Decode
	own.Nodes.Client = client.New(a.Objects, "system:apiserver", "kube-apiserver")
	if a.Tokens, err = auth.NewTokens(Issuer, c.ServiceAccountKey, subjects{a.Objects}, time.Now); err != nil {
		return nil, err
	}
	var checks []rest.Check
	for _, check := range c.Checks {
		checks = append(checks, rest.Check{Name: check.Name, Run: check.New(a.Objects)})
	}
	a.Authenticator = &auth.Authenticator{Roots: c.Roots, Admit: c.Admit, Tokens: a.Tokens, Bootstrap: c.BootstrapTokens, Others: c.Tokens, Anonymous: c.Anonymous}
	reach.Open(a.Objects, c.Agents)
	if a.REST, err = rest.New(rest.Config{
		Objects: a.Objects, Authenticator: a.Authenticator, Authorizer: a.Authorizer, Tokens: a.Tokens,
		Agents: reach, Aggregated: a.Aggregated, Metrics: c.Metrics, Tracer: c.Tracer, Timeline: c.Timelines, Advice: c.Advice, Audit: c.Audit, Limits: c.Limits, RequestTimeout: c.RequestTimeout,
		Ready: c.Ready, Checks: checks, Version: c.Version, Log: c.Log, Extra: c.Extra, CatchUp: store.catchUp, Journal: c.Journal, UsageHistory: c.UsageHistory,
	}); err != nil {
		return nil, fmt.Errorf("REST front: %w", err)
	}
	a.RPC = rpc.New(rpc.Config{
		Objects: a.Objects, Authenticator: a.Authenticator, Authorizer: a.Authorizer, Agents: reach, Aggregated: a.Aggregated, Cluster: c.Cluster, Metrics: c.Metrics, Tracer: c.Tracer,
		Audit: c.Audit, Limits: c.Limits, RequestTimeout: c.RequestTimeout, Ready: ready(c.Ready, checks), Log: c.Log, CatchUp: store.catchUp,
	})
	return a, nil
}

// Check is a check of readiness, under upstream's name of it.
type Check struct {
	Name string
	New  func(*objects.Service) func(context.Context) error
}

// ready returns a function that carries out all checks of readiness.
func ready(quorum func(context.Context) error, checks []rest.Check) func(context.Context) error {
	return func(ctx context.Context) error {
		if quorum != nil {
			if err := quorum(ctx); err != nil {
				return err
			}
		}
		for _, check := range checks {
			if err := check.Run(ctx); err != nil {
				return fmt.Errorf("%s: %w", check.Name, err)
			}
		}
		return nil
	}
}

// ServeHTTP implements http.Handler for the API port.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if rpc.Is(r) {
		a.RPC.ServeHTTP(w, r)
		return
	}
	a.REST.ServeHTTP(w, r)
}

// subjects looks up the objects that tokens are bound to.
type subjects struct{ objects *objects.Service }

// Object implements auth.Subjects.
func (s subjects) Object(resource, namespace, name string) (metav1.Object, bool) {
	kind, _ := s.objects.Kinds().ByGroupResource("", resource)
	v, ok := s.objects.Store().View().Get(kind.Key(namespace, name))
	if !ok {
		return nil, false
	}
	obj, err := s.objects.Decode(kind, v)
	return obj, err == nil
}
