package builtin

import (
	"context"
	"fmt"

	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/validation"

	"github.com/kontiki/kontiki/api/registry"
)

// apiServices are the group versions that are served, by the masters or by an extension API server (package aggregation). The rules are those of
// k8s.io/kube-aggregator/pkg/registry/apiservice, which reaches the serving stack.
func apiServices() *registry.Resource {
	return &registry.Resource{
		Group: apiregistration.GroupName, Kind: "APIService", Resource: "apiservices", Categories: []string{"api-extensions"},
		Codec: registry.AggregatorCodec(), Print: printAPIService,
		PrepareCreate: preparer(func(s *apiregistration.APIService) {
			s.Status = apiregistration.APIServiceStatus{}
			if s.Spec.Service == nil {
				apiregistration.SetAPIServiceCondition(s, apiregistration.NewLocalAvailableAPIServiceCondition())
			}
		}),
		Validate: func(ctx context.Context, obj runtime.Object) field.ErrorList {
			return validation.ValidateAPIService(ctx, obj.(*apiregistration.APIService))
		},
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(s, old *apiregistration.APIService) { s.Status = old.Status }),
			ValidateUpdate: func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
				return validation.ValidateAPIServiceUpdate(ctx, obj.(*apiregistration.APIService), old.(*apiregistration.APIService))
			},
			ResetFields: []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate: updater(func(s, old *apiregistration.APIService) {
				s.Spec = old.Spec
				s.Labels, s.Annotations, s.Finalizers, s.OwnerReferences = old.Labels, old.Annotations, old.Finalizers, old.OwnerReferences
			}),
			ValidateUpdate: func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
				return validation.ValidateAPIServiceStatusUpdate(ctx, obj.(*apiregistration.APIService), old.(*apiregistration.APIService))
			},
			ResetFields: []string{"spec", "metadata"},
		},
	}
}

// printAPIService returns upstream's columns (k8s.io/kube-aggregator/pkg/registry/apiservice/etcd).
func printAPIService(_ context.Context, obj runtime.Object, _ *metav1.TableOptions) (*metav1.Table, error) {
	s, ok := obj.(*apiregistration.APIService)
	if !ok {
		return nil, fmt.Errorf("%T is not an APIService", obj)
	}
	doc := metav1.ObjectMeta{}.SwaggerDoc()
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: doc["name"]},
		{Name: "Service", Type: "string", Description: "The reference to the service that hosts this API endpoint."},
		{Name: "Available", Type: "string", Description: "Whether this service is available."},
		{Name: "Age", Type: "string", Description: doc["creationTimestamp"]},
	}}
	by := "Local"
	if s.Spec.Service != nil {
		by = s.Spec.Service.Namespace + "/" + s.Spec.Service.Name
	}
	available := string(apiregistration.ConditionUnknown)
	if c := apiregistration.GetAPIServiceConditionByType(s, apiregistration.Available); c != nil {
		available = string(c.Status)
		if c.Status != apiregistration.ConditionTrue && c.Reason != "" {
			available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
	}
	var err error
	table.Rows, err = metatable.MetaToTableRow(s, func(_ runtime.Object, _ metav1.Object, name, age string) ([]any, error) {
		return []any{name, by, available, age}, nil
	})
	return table, err
}
