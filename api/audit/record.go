package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/logline"
)

// The annotations of events. The first two are upstream's.
const (
	DecisionAnnotation = "authorization.k8s.io/decision" // allow or forbid
	ReasonAnnotation   = "authorization.k8s.io/reason"
	// DryRunAnnotation is "true" on events of dry runs, which stored nothing.
	DryRunAnnotation = "kontiki.io/dry-run"
	// UnsafeDeleteAnnotation is on events of deletions of objects that cannot be read.
	UnsafeDeleteAnnotation = "apiserver.k8s.io/unsafe-delete-ignore-read-error"
	// OperationAnnotation is the index, from 0, of an operation in its transaction.
	OperationAnnotation = "kontiki.io/transaction-operation"
)

const (
	maxUserAgent = 1024
	cutOff       = "...TRUNCATED"
)

// Attempt is a request as it was received.
type Attempt struct {
	HTTP     *http.Request
	ID       types.UID
	Received time.Time
	// Attributes are the input of the policy; their User is the sender, not the user whom it impersonates.
	Attributes authorizer.AttributesRecord
	// LongRunning means that the request has a stage ResponseStarted.
	LongRunning bool
}

// Record records one request. It is safe for concurrent use.
type Record struct {
	auditor *Auditor
	attempt Attempt
	config  upstream.RequestAuditConfig

	mu    sync.Mutex
	event auditv1.Event
	// as is the user whom the sender impersonates, nil if it impersonates none.
	as         *authenticationv1.UserInfo
	started    bool
	over       bool
	operations []*Record
}

// Begin starts recording a request, and records that it was received.
func (a *Auditor) Begin(attempt Attempt) *Record {
	if a == nil {
		return nil
	}
	r := a.begin(attempt)
	r.stage(auditv1.StageRequestReceived)
	return r
}

// Unauthenticated records a request whose credential is not valid.
func (a *Auditor) Unauthenticated(attempt Attempt, status *metav1.Status) {
	if a == nil {
		return
	}
	r := a.begin(attempt)
	r.Status(status)
	r.stage(auditv1.StageResponseStarted)
}

func (a *Auditor) begin(attempt Attempt) *Record {
	r := &Record{auditor: a, attempt: attempt}
	r.config = a.policy.EvaluatePolicyRule(&r.attempt.Attributes)
	a.levels.WithLabelValues(string(r.config.Level)).Inc()
	if !r.Recording() {
		return r
	}
	e, of := &r.event, &r.attempt.Attributes
	e.TypeMeta = metav1.TypeMeta{Kind: "Event", APIVersion: auditv1.SchemeGroupVersion.String()}
	e.Level, e.AuditID, e.Verb = auditv1.Level(r.config.Level), attempt.ID, of.Verb
	e.RequestReceivedTimestamp = metav1.NewMicroTime(attempt.Received)
	e.RequestURI = attempt.HTTP.URL.RequestURI()
	if e.UserAgent = attempt.HTTP.UserAgent(); len(e.UserAgent) > maxUserAgent {
		e.UserAgent = e.UserAgent[:maxUserAgent] + cutOff
	}
	for _, ip := range utilnet.SourceIPs(attempt.HTTP) {
		e.SourceIPs = append(e.SourceIPs, ip.String())
	}
	if of.User != nil {
		e.User = userInfo(of.User)
	}
	if of.ResourceRequest {
		e.ObjectRef = &auditv1.ObjectReference{Namespace: of.Namespace, Name: of.Name, Resource: of.Resource, Subresource: of.Subresource,
			APIGroup: of.APIGroup, APIVersion: of.APIVersion}
	}
	return r
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, values := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[key] = values
	}
	return out
}

// Recording says whether the policy records the request at all.
func (r *Record) Recording() bool { return r != nil && r.config.Level != audit.LevelNone }

// WantsRequest says whether the policy records the request's body.
func (r *Record) WantsRequest() bool {
	return r != nil && r.config.Level.GreaterOrEqual(audit.LevelRequest)
}

// WantsResponse says whether the policy records the response's body.
func (r *Record) WantsResponse() bool {
	return r != nil && r.config.Level.GreaterOrEqual(audit.LevelRequestResponse)
}

// stage writes the event at a stage, unless the policy omits that stage.
func (r *Record) stage(stage auditv1.Stage) {
	if !r.Recording() || slices.Contains(r.config.OmitStages, audit.Stage(stage)) {
		return
	}
	r.event.Stage = stage
	r.event.StageTimestamp = r.event.RequestReceivedTimestamp
	if stage != auditv1.StageRequestReceived {
		r.event.StageTimestamp = metav1.NewMicroTime(r.auditor.now())
	}
	r.auditor.write(&r.event)
}

// change changes the event of a request that is recorded and not finished.
func (r *Record) change(change func(*auditv1.Event)) {
	if !r.Recording() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		change(&r.event)
	}
}

// Annotate adds an annotation.
func (r *Record) Annotate(key, value string) {
	r.change(func(e *auditv1.Event) {
		if e.Annotations == nil {
			e.Annotations = make(map[string]string, 2)
		}
		e.Annotations[key] = value
	})
}

// Decided records whether the request was allowed, and why.
func (r *Record) Decided(allowed bool, reason string) {
	if !r.Recording() {
		return
	}
	decision := "forbid"
	if allowed {
		decision = "allow"
	}
	r.Annotate(DecisionAnnotation, decision)
	r.Annotate(ReasonAnnotation, reason)
}

// Impersonated records the user whom the sender acts as.
func (r *Record) Impersonated(as *auth.Impersonated) {
	if r == nil || as == nil {
		return
	}
	info := userInfo(as.User)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.as, r.event.ImpersonatedUser = &info, &info
	if as.Constraint != "" {
		r.event.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: as.Constraint}
	}
}

// Request records the object in a request's body, and completes the object reference with it.
func (r *Record) Request(obj runtime.Object) {
	if !r.Recording() {
		return
	}
	if named, ok := obj.(registry.Object); ok {
		r.About(named)
	}
	if !r.WantsRequest() {
		return
	}
	if raw, ok := r.encode(obj); ok {
		r.change(func(e *auditv1.Event) { e.RequestObject = unknown(raw) })
	}
}

// DeleteOptions records the delete options in a request's body, if there are any.
func (r *Record) DeleteOptions(o *metav1.DeleteOptions) {
	if !r.WantsRequest() || o == nil {
		return
	}
	plain := *o
	plain.TypeMeta = metav1.TypeMeta{} // clients may omit them
	if !reflect.DeepEqual(plain, metav1.DeleteOptions{}) {
		r.Request(&plain)
	}
}

// About completes the object reference with an object.
func (r *Record) About(obj registry.Object) {
	r.change(func(e *auditv1.Event) {
		if e.ObjectRef == nil {
			return
		}
		e.ObjectRef.Namespace = cmp.Or(e.ObjectRef.Namespace, obj.GetNamespace())
		e.ObjectRef.Name = cmp.Or(e.ObjectRef.Name, obj.GetName())
		e.ObjectRef.UID = cmp.Or(e.ObjectRef.UID, obj.GetUID())
		e.ObjectRef.ResourceVersion = cmp.Or(e.ObjectRef.ResourceVersion, obj.GetResourceVersion())
	})
}

// Patch records the patch in a request's body; one that is neither JSON nor YAML, or that is refused for its aliases, is omitted.
func (r *Record) Patch(patch objects.Patch) {
	if !r.WantsRequest() {
		return
	}
	if raw, ok := patchJSON(patch); ok {
		r.change(func(e *auditv1.Event) { e.RequestObject = unknown(raw) })
	}
}

// Response records the object in the response.
func (r *Record) Response(obj runtime.Object) {
	if !r.WantsResponse() {
		return
	}
	if raw, ok := r.encode(obj); ok {
		r.change(func(e *auditv1.Event) { e.ResponseObject = unknown(raw) })
	}
}

// ResponseJSON is Response for an object that is already encoded.
func (r *Record) ResponseJSON(raw []byte) {
	if !r.WantsResponse() {
		return
	}
	if r.config.OmitManagedFields {
		var err error
		if raw, err = withoutManagedFields(raw); err != nil {
			return
		}
	}
	r.change(func(e *auditv1.Event) { e.ResponseObject = unknown(raw) })
}

func unknown(raw []byte) *runtime.Unknown {
	return &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}
}

func (r *Record) encode(obj runtime.Object) ([]byte, bool) {
	raw, err := json.Marshal(obj)
	if err == nil && r.config.OmitManagedFields {
		raw, err = withoutManagedFields(raw)
	}
	if err != nil {
		r.auditor.writer.log.Error("an object cannot be encoded for the audit log", "uri", logline.Cut(r.event.RequestURI), "error", err)
	}
	return raw, err == nil
}

// Status records the Status in the response.
func (r *Record) Status(s *metav1.Status) {
	r.change(func(e *auditv1.Event) {
		if r.started {
			return // the response has already begun
		}
		e.ResponseStatus = &metav1.Status{Status: s.Status, Message: s.Message, Reason: s.Reason, Details: s.Details, Code: s.Code}
	})
}

// Failed records that the response is a Status with an error.
func (r *Record) Failed(s *metav1.Status) {
	if !r.Recording() {
		return
	}
	r.mu.Lock()
	started := r.started
	r.mu.Unlock()
	if !started {
		r.Status(s)
		r.Response(s)
	}
}

// Started records that the response begins, with an HTTP status code. Only the first call has an effect.
func (r *Record) Started(code int) {
	r.change(func(e *auditv1.Event) { r.start(code) })
}

func (r *Record) start(code int) {
	if r.started {
		return
	}
	r.started = true
	if r.event.ResponseStatus == nil {
		r.event.ResponseStatus = &metav1.Status{}
	}
	r.event.ResponseStatus.Code = int32(code)
	if r.attempt.LongRunning {
		r.stage(auditv1.StageResponseStarted)
	}
}

// Complete records that the request is finished. Only the first call has an effect.
func (r *Record) Complete() {
	r.change(func(e *auditv1.Event) {
		if e.ResponseStatus == nil {
			e.ResponseStatus = &metav1.Status{Status: metav1.StatusSuccess, Message: "Connection closed early"}
			r.start(http.StatusOK)
		}
		r.over = true
		r.stage(auditv1.StageResponseComplete)
	})
}

// Finish is Complete with the error in the response, or else the code.
func (r *Record) Finish(code int, err error) {
	if !r.Recording() {
		return
	}
	if err != nil {
		status := objects.StatusOf(err)
		r.Failed(status)
		code = int(status.Code)
	}
	r.Started(code)
	r.Complete()
}

// Panicked records that serving the request panicked, also for the operations of a transaction.
func (r *Record) Panicked(cause any) {
	if r == nil {
		return
	}
	for _, o := range r.operations {
		o.Panicked(cause)
	}
	r.change(func(e *auditv1.Event) {
		e.ResponseStatus = &metav1.Status{Code: http.StatusInternalServerError, Status: metav1.StatusFailure,
			Reason: metav1.StatusReasonInternalError, Message: fmt.Sprintf("APIServer panic'd: %v", cause)}
		r.over = true
		r.stage(auditv1.StagePanic)
	})
}

// Operation starts recording an operation of the transaction that r records: an event of its own, at the level that the policy has
// for it, with the transaction's ID. place is the operation's index, from 0.
func (r *Record) Operation(place int, of authorizer.AttributesRecord, dryRun bool) *Record {
	if r == nil {
		return nil
	}
	attempt := r.attempt
	of.User = attempt.Attributes.User
	attempt.Attributes, attempt.LongRunning = of, false
	o := r.auditor.begin(attempt)
	r.mu.Lock()
	defer r.mu.Unlock()
	o.event.ImpersonatedUser, o.event.AuthenticationMetadata = r.as, r.event.AuthenticationMetadata
	o.Annotate(OperationAnnotation, strconv.Itoa(place))
	if dryRun {
		o.Annotate(DryRunAnnotation, "true")
	}
	r.operations = append(r.operations, o)
	return o
}

// Transacted records how the operations of a transaction ended: the result of each or, with an error, why nothing was changed.
// results are in the order of the operations.
func (r *Record) Transacted(results []objects.TxResult, err error) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var failed *objects.TxError
	errors.As(err, &failed)
	for i, o := range r.operations {
		if err != nil {
			// The operation because of which the transaction was refused has its own error.
			if failed != nil && failed.Operation == i {
				o.Finish(0, failed.Err)
			} else {
				o.Finish(0, err)
			}
			continue
		}
		code := http.StatusOK
		if result := results[i]; result.Object != nil {
			o.About(result.Object)
			o.Response(result.Object)
			if result.Created {
				code = http.StatusCreated
			}
		}
		o.Finish(code, nil)
	}
}

// Authorize is auth.Check, and records the decision in the context's record.
func Authorize(ctx context.Context, by auth.Authorizer, a authorizer.Attributes) error {
	decision, reason, err := by.Authorize(ctx, a)
	record := From(ctx)
	if err != nil && decision != authorizer.DecisionAllow {
		record.Annotate(ReasonAnnotation, "internal error")
	} else {
		record.Decided(decision == authorizer.DecisionAllow, reason)
	}
	return auth.Outcome(a, decision, reason, err)
}

type recordKey struct{}

// With adds a record to a context.
func With(ctx context.Context, r *Record) context.Context {
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, recordKey{}, r)
}

// From returns the record of a context, nil if there is none.
func From(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}
