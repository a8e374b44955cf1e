package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/kontiki/kontiki/api/extension/conversion"
	"github.com/kontiki/kontiki/api/extension/definitions"
	"github.com/kontiki/kontiki/api/extension/webhook"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry/custom"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/kv"
)

// settling is a store whose writes of definitions return when this master serves what they define.
type settling struct {
	objects.Store
	definitions *definitions.Definitions
}

// Propose implements objects.Store.
func (s *settling) Propose(ctx context.Context, command *kv.Command) (kv.Result, error) {
	result, err := s.Store.Propose(ctx, command)
	if err != nil || result.Failed != nil {
		return result, err
	}
	for i := range command.Ops {
		if op := &command.Ops[i]; !op.Check && strings.HasPrefix(op.Key, definitions.Prefix) {
			s.definitions.Sync(s.Store.View())
			break
		}
	}
	return result, nil
}

// patience limits how long a request waits for the newest definitions. Without a quorum it gets those that this master knows.
const patience = 2 * time.Second

// catchUp makes the catalog contain what every acknowledged write has defined.
func (s *settling) catchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	view, err := s.Store.Consistent(ctx)
	if err != nil {
		view = s.Store.View()
	}
	s.definitions.Sync(view)
}

// converters returns a function that returns how the objects of a definition are converted.
func converters(pods webhook.Pods, local bool, metrics *conversion.Metrics) func(*apiextensionsv1.CustomResourceDefinition) (custom.Converter, error) {
	return func(crd *apiextensionsv1.CustomResourceDefinition) (custom.Converter, error) {
		switch c := crd.Spec.Conversion; {
		case c == nil || c.Strategy == apiextensionsv1.NoneConverter:
			return custom.None{}, nil
		case c.Strategy == apiextensionsv1.WebhookConverter:
			return conversion.Of(crd, pods, local, metrics)
		default:
			return nil, fmt.Errorf("the conversion strategy %s of %s is not supported", c.Strategy, crd.Name)
		}
	}
}

// frontProxy returns a function that returns the front proxy's certificate, or that there is none.
func frontProxy(certificate func() (*tls.Certificate, error)) func() (*tls.Certificate, error) {
	if certificate != nil {
		return certificate
	}
	return func() (*tls.Certificate, error) {
		return nil, errors.New("this master has no certificate as the front proxy")
	}
}

// Run keeps the table of kinds as the definitions of custom resources are, and admission as the files of this master are, until the context
// ends. It returns the context's error.
func (a *API) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return contain.Run(func() error { return a.definitions.Run(ctx) }) })
	group.Go(func() error { return contain.Run(func() error { return a.Aggregated.Run(ctx) }) })
	group.Go(func() error {
		return contain.Run(func() error {
			a.manifests.Run(ctx)
			return nil
		})
	})
	return group.Wait()
}
