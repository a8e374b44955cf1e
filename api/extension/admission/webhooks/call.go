package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	webhookerrors "k8s.io/apiserver/pkg/admission/plugin/webhook/errors"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"
	webhookrequest "k8s.io/apiserver/pkg/admission/plugin/webhook/request"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/pkg/warning"
)

// errPaused means that a webhook was not called because it did not answer a moment ago.
var errPaused = errors.New("it has not answered in time, and is not asked again for some seconds")

// call sends a review to a webhook, and returns its answer if it admits the request. Errors: *webhookutil.ErrCallingWebhook if it could not be
// asked, *webhookutil.ErrWebhookRejection if it refuses, others if the request cannot be carried out.
func (h *Hook) call(ctx context.Context, invocation *generic.WebhookInvocation, attr *admission.VersionedAttributes) (*webhookrequest.AdmissionResponse, error) {
	name := h.GetName()
	failed := func(status *apierrors.StatusError, format string, args ...any) error {
		return &webhookutil.ErrCallingWebhook{WebhookName: name, Reason: fmt.Errorf(format, args...), Status: status}
	}
	if attr.IsDryRun() {
		effects := h.GetSideEffects()
		if effects == nil {
			return nil, failed(apierrors.NewBadRequest("Webhook SideEffects is nil"), "Webhook SideEffects is nil")
		}
		if *effects != registrationv1.SideEffectClassNone && *effects != registrationv1.SideEffectClassNoneOnDryRun {
			return nil, webhookerrors.NewDryRunUnsupportedErr(name)
		}
	}
	uid, request, response, err := webhookrequest.CreateAdmissionObjects(attr, invocation)
	if err != nil {
		return nil, failed(apierrors.NewBadRequest("error creating admission objects"), "could not create admission objects: %w", err)
	}
	answer, err := h.post(ctx, request)
	if err == nil {
		if err = json.Unmarshal(answer, response); err != nil {
			err = fmt.Errorf("the response cannot be read: %w", err)
		}
	}
	if err != nil {
		return nil, failed(apierrors.NewServiceUnavailable("error calling webhook"), "failed to call webhook: %w", err)
	}
	result, err := webhookrequest.VerifyAdmissionResponse(uid, h.mutating != nil, response)
	if err != nil {
		return nil, failed(apierrors.NewServiceUnavailable("error validating webhook response"), "received invalid webhook response: %w", err)
	}
	for key, value := range result.AuditAnnotations {
		_ = attr.AddAnnotation(name+"/"+key, value) // what the webhook calls by no valid name is not recorded
	}
	for _, text := range result.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	if !result.Allowed {
		return nil, &webhookutil.ErrWebhookRejection{Status: webhookerrors.ToStatusErr(name, result.Result)}
	}
	return result, nil
}

// post sends a review within the webhook's timeout.
func (h *Hook) post(ctx context.Context, review runtime.Object) ([]byte, error) {
	switch review.(type) {
	case *admissionv1.AdmissionReview:
		review.GetObjectKind().SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	case *admissionv1beta1.AdmissionReview:
		review.GetObjectKind().SetGroupVersionKind(admissionv1beta1.SchemeGroupVersion.WithKind("AdmissionReview"))
	}
	client, err := h.connection()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(review)
	if err != nil {
		return nil, err
	}
	within := ctx
	if seconds := h.GetTimeoutSeconds(); seconds != nil {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeout(ctx, time.Duration(*seconds)*time.Second)
		defer cancel()
	}
	if !h.ignores() {
		return client.Review(within, body)
	}
	began := time.Now()
	if !h.circuit.enter(began) {
		return nil, errPaused
	}
	failed := true // also if it panics
	defer func() {
		ended := time.Now()
		h.circuit.left(failed, ctx.Err() != nil, ended.Sub(began), ended)
	}()
	answer, err := client.Review(within, body)
	failed = err != nil
	return answer, err
}

// observe counts a call, and says whether its error is one that the webhook's failure policy ignores.
func (h *Hook) observe(ctx context.Context, attr admission.Attributes, took time.Duration, err error) (ignored bool) {
	metrics, name, operation := admissionmetrics.Metrics, h.GetName(), string(attr.GetOperation())
	code, kind := 200, admissionmetrics.WebhookRejectionNoError
	rejected := err != nil
	canceled := false
	var calling *webhookutil.ErrCallingWebhook
	var refused *webhookutil.ErrWebhookRejection
	switch {
	case err == nil:
	case errors.As(err, &calling):
		code, kind = int(calling.Status.ErrStatus.Code), admissionmetrics.WebhookRejectionCallingWebhookError
		ignored, canceled = h.ignores(), errors.Is(calling.Reason, context.Canceled)
		rejected = !ignored
	case errors.As(err, &refused):
		code = int(refused.Status.ErrStatus.Code)
	default:
		code, kind = 0, admissionmetrics.WebhookRejectionAPIServerInternalError
	}
	metrics.ObserveWebhook(ctx, name, took, rejected, attr, h.kind(), code)
	if rejected && !canceled {
		metrics.ObserveWebhookRejection(ctx, name, h.kind(), operation, kind, code)
	}
	if ignored && !canceled {
		metrics.ObserveWebhookFailOpen(ctx, name, h.kind())
	}
	return ignored
}

// answerOf returns what the client of a request is told about an error of a call that is not ignored.
func answerOf(err error) error {
	var refused *webhookutil.ErrWebhookRejection
	if errors.As(err, &refused) {
		return refused.Status
	}
	var calling *webhookutil.ErrCallingWebhook
	if errors.As(err, &calling) {
		return apierrors.NewInternalError(err)
	}
	return err
}

// overdue returns the error of a request whose time is up, nil if it is not.
func overdue(ctx context.Context) error {
	if ctx.Err() != nil {
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	return nil
}
