// Package conversion converts custom resources by webhook (ConversionReview of apiextensions.k8s.io/v1 and v1beta1), with upstream's checks and
// messages (k8s.io/apiextensions-apiserver/pkg/apiserver/conversion).
package conversion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/kontiki/kontiki/api/extension/webhook"
)

// timeout limits a call, as upstream does.
const timeout = 30 * time.Second

// Limits of the objects of one call: their number, and their bytes together (but at least one object).
const (
	maxObjects = 250
	maxBytes   = 4 << 20
)

// Poster calls a webhook.
type Poster interface {
	Post(ctx context.Context, body []byte) ([]byte, error)
}

// Webhook converts by calling a webhook. It is safe for concurrent use.
type Webhook struct {
	definition string
	hook       Poster
	versions   []string // of ConversionReview
	metrics    *Metrics
}

// Of returns the webhook of a definition whose strategy is Webhook. Its calls are counted in metrics, which may be nil.
func Of(crd *apiextensionsv1.CustomResourceDefinition, pods webhook.Pods, local bool, metrics *Metrics) (*Webhook, error) {
	given := crd.Spec.Conversion.Webhook
	if given == nil || given.ClientConfig == nil {
		return nil, fmt.Errorf("%s has no webhook", crd.Name)
	}
	config := given.ClientConfig
	target := webhook.Target{CABundle: config.CABundle}
	switch {
	case config.URL != nil:
		target.URL = *config.URL
	case config.Service != nil:
		target.Service = &webhook.Service{Namespace: config.Service.Namespace, Name: config.Service.Name, Port: 443}
		if config.Service.Path != nil {
			target.Service.Path = *config.Service.Path
		}
		if config.Service.Port != nil {
			target.Service.Port = *config.Service.Port
		}
	default:
		return nil, fmt.Errorf("%s has neither the URL nor the service of a webhook", crd.Name)
	}
	hook, err := webhook.New(target, pods, local)
	if err != nil {
		return nil, fmt.Errorf("the conversion webhook of %s: %w", crd.Name, err)
	}
	return &Webhook{definition: crd.Name, hook: hook, versions: given.ConversionReviewVersions, metrics: metrics}, nil
}

// Convert implements custom.Converter. Objects that have the version already, and those that are empty, are not sent.
func (w *Webhook) Convert(objects []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	out := slices.Clone(objects)
	var at []int
	var batch []runtime.RawExtension
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		began := time.Now()
		converted, err := w.call(ctx, batch, apiVersion)
		if err == nil && len(converted) != len(batch) {
			err = failed(partial, fmt.Errorf("returned %d objects, expected %d", len(converted), len(batch)))
		}
		for i, j := range at {
			if err != nil {
				break
			}
			if err = adopt(objects[j], converted[i], apiVersion); err != nil {
				err = failed(invalidObject, fmt.Errorf("returned invalid converted object at index %d: %w", i, err))
			}
			out[j] = converted[i]
		}
		w.metrics.called(w.definition, objects[at[0]].GetAPIVersion(), apiVersion, time.Since(began), err)
		if err != nil {
			return fmt.Errorf("conversion webhook for %v failed: %w", objects[at[0]].GroupVersionKind(), err)
		}
		at, batch, size = nil, nil, 0
		return nil
	}
	for i, obj := range objects {
		if obj.GetAPIVersion() == apiVersion {
			continue
		}
		if len(obj.Object) == 2 { // nothing but its type
			obj.SetAPIVersion(apiVersion)
			continue
		}
		raw, err := json.Marshal(obj.Object)
		if err != nil {
			return nil, err
		}
		if len(batch) == maxObjects || size+len(raw) > maxBytes {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		at, batch, size = append(at, i), append(batch, runtime.RawExtension{Raw: raw}), size+len(raw)
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return out, nil
}

func known(version string) bool {
	return version == apiextensionsv1.SchemeGroupVersion.Version || version == apiextensionsv1beta1.SchemeGroupVersion.Version
}

// answer is what is read of a ConversionReview that a webhook returns.
type answer struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Response   *struct {
		UID              types.UID        `json:"uid"`
		ConvertedObjects []map[string]any `json:"convertedObjects"`
		Result           struct {
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"result"`
	} `json:"response"`
}

// call sends a review and returns the objects of the response.
func (w *Webhook) call(ctx context.Context, objects []runtime.RawExtension, apiVersion string) ([]*unstructured.Unstructured, error) {
	uid := types.UID(uuid.NewString())
	version := apiextensionsv1.SchemeGroupVersion
	if i := slices.IndexFunc(w.versions, known); i < 0 {
		return nil, errors.New("the webhook does not accept known conversion review versions")
	} else if w.versions[i] == apiextensionsv1beta1.SchemeGroupVersion.Version {
		version = apiextensionsv1beta1.SchemeGroupVersion
	}
	// Both versions of the review have the same fields.
	request := apiextensionsv1.ConversionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: version.String(), Kind: "ConversionReview"},
		Request:  &apiextensionsv1.ConversionRequest{UID: uid, DesiredAPIVersion: apiVersion, Objects: objects},
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if body, err = w.hook.Post(ctx, body); err != nil {
		return nil, failed(callFailed, err)
	}
	return read(body, version, uid)
}

// read returns the objects of a response to a review.
func read(body []byte, version schema.GroupVersion, uid types.UID) (converted []*unstructured.Unstructured, err error) {
	defer func() {
		if err != nil {
			err = failed(malformed, err)
		}
	}()
	var review answer
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &review); err != nil {
		return nil, fmt.Errorf("the response cannot be read: %w", err)
	}
	switch response := review.Response; {
	case version == apiextensionsv1.SchemeGroupVersion && (review.APIVersion != version.String() || review.Kind != "ConversionReview"):
		return nil, fmt.Errorf("expected webhook response of %v, Kind=ConversionReview, got %v, Kind=%v", version, review.APIVersion, review.Kind)
	case response == nil:
		return nil, errors.New("no response provided")
	case version == apiextensionsv1.SchemeGroupVersion && response.UID != uid:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, response.UID)
	case response.Result.Status != metav1.StatusSuccess && response.Result.Message != "":
		return nil, errors.New(response.Result.Message)
	case response.Result.Status != metav1.StatusSuccess:
		return nil, fmt.Errorf("response.result.status was '%s', not 'Success'", response.Result.Status)
	}
	converted = make([]*unstructured.Unstructured, len(review.Response.ConvertedObjects))
	for i, obj := range review.Response.ConvertedObjects {
		converted[i] = &unstructured.Unstructured{Object: obj}
	}
	return converted, nil
}

// adopt checks what a webhook made of an object, and restores the metadata that it may not change: all but labels and annotations.
func adopt(in, out *unstructured.Unstructured, apiVersion string) error {
	if out.GetAPIVersion() != apiVersion {
		return fmt.Errorf("invalid groupVersion (expected %v, received %v)", apiVersion, out.GetAPIVersion())
	}
	for _, same := range []struct{ what, a, b string }{
		{"kind", in.GetKind(), out.GetKind()}, {"name", in.GetName(), out.GetName()},
		{"namespace", in.GetNamespace(), out.GetNamespace()}, {"UID", string(in.GetUID()), string(out.GetUID())},
	} {
		if same.a != same.b {
			return fmt.Errorf("must have the same %s: %v != %v", same.what, same.a, same.b)
		}
	}
	given, ok := out.Object["metadata"].(map[string]any)
	if !ok {
		return errors.New("missing metadata in converted object")
	}
	metadata := map[string]any{}
	if original, ok := in.Object["metadata"].(map[string]any); ok {
		metadata = runtime.DeepCopyJSON(original)
	}
	for _, name := range []string{"labels", "annotations"} {
		texts, found, err := unstructured.NestedStringMap(given, name)
		if err != nil {
			return fmt.Errorf("metadata.%s: %w", name, err)
		}
		if !found || given[name] == nil {
			delete(metadata, name)
			continue
		}
		before, _, _ := unstructured.NestedStringMap(metadata, name) // of an object that has been validated
		if !maps.Equal(before, texts) {
			errs := metav1validation.ValidateLabels(texts, field.NewPath("metadata", "labels"))
			if name == "annotations" {
				errs = apivalidation.ValidateAnnotations(texts, field.NewPath("metadata", "annotation"))
			}
			if len(errs) > 0 {
				return errs.ToAggregate()
			}
		}
		metadata[name] = given[name]
	}
	out.Object["metadata"] = metadata
	return nil
}
