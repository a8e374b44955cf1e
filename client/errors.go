package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Classes of errors, for errors.Is.
var (
	ErrNotFound      = errors.New("not found")
	ErrAlreadyExists = errors.New("already exists")
	// ErrConflict means that the object has changed: Error.ResourceVersion is its current resource version. Read it again, and
	// retry.
	ErrConflict = errors.New("conflict")
	// ErrInvalid means that the request is invalid; Error.Fields names the fields.
	ErrInvalid      = errors.New("invalid")
	ErrUnauthorized = errors.New("unauthorized")
	ErrForbidden    = errors.New("forbidden")
	// ErrExpired means that the requested resource version is no longer in the history. Watch handles it by itself.
	ErrExpired = errors.New("expired")
	// ErrTooManyRequests means that the server refuses further requests for now, or that an eviction must wait; Error.RetryAfter
	// may say how long.
	ErrTooManyRequests = errors.New("too many requests")
	ErrUnsupported     = errors.New("unsupported")
	// ErrInternal means that the server has a fault. The outcome of a write is then unspecified.
	ErrInternal = errors.New("internal error")
	// ErrUnavailable means that no master served the request in time, and that nothing was changed.
	ErrUnavailable = errors.New("unavailable")
	// ErrOutcomeUnknown means that a write was sent and its response did not arrive: it may have been carried out, or may still be.
	// Read before you retry. Writes that state what they expect (a resource version, a create, a check) can simply be retried:
	// ErrConflict or ErrAlreadyExists then mean that the first attempt was carried out, or another client's write was.
	ErrOutcomeUnknown = errors.New("the outcome is unknown")
)

var classOfReason = map[metav1.StatusReason]error{
	metav1.StatusReasonBadRequest:            ErrInvalid,
	metav1.StatusReasonInvalid:               ErrInvalid,
	metav1.StatusReasonRequestEntityTooLarge: ErrInvalid,
	metav1.StatusReasonUnauthorized:          ErrUnauthorized,
	metav1.StatusReasonForbidden:             ErrForbidden,
	metav1.StatusReasonNotFound:              ErrNotFound,
	metav1.StatusReasonAlreadyExists:         ErrAlreadyExists,
	metav1.StatusReasonConflict:              ErrConflict,
	metav1.StatusReasonExpired:               ErrExpired,
	metav1.StatusReasonGone:                  ErrExpired,
	metav1.StatusReasonMethodNotAllowed:      ErrUnsupported,
	metav1.StatusReasonNotAcceptable:         ErrUnsupported,
	metav1.StatusReasonUnsupportedMediaType:  ErrUnsupported,
	metav1.StatusReasonTooManyRequests:       ErrTooManyRequests,
	metav1.StatusReasonServiceUnavailable:    ErrUnavailable,
	metav1.StatusReasonServerTimeout:         ErrUnavailable,
	metav1.StatusReasonTimeout:               ErrUnavailable,
	metav1.StatusReasonInternalError:         ErrInternal,
}

// classOfCode is for errors without a known reason.
var classOfCode = map[codes.Code]error{
	codes.InvalidArgument: ErrInvalid, codes.Unauthenticated: ErrUnauthorized, codes.PermissionDenied: ErrForbidden,
	codes.NotFound: ErrNotFound, codes.AlreadyExists: ErrAlreadyExists, codes.Aborted: ErrConflict, codes.FailedPrecondition: ErrConflict,
	codes.OutOfRange: ErrExpired, codes.ResourceExhausted: ErrTooManyRequests, codes.Unimplemented: ErrUnsupported,
	codes.Unavailable: ErrUnavailable, codes.DeadlineExceeded: ErrUnavailable, codes.Canceled: ErrUnavailable,
}

// Error is the error of a call. errors.Is matches its class and, if the caller's context ended the call, the context's error;
// apimachinery's errors.IsNotFound and the like, and gRPC's status.Code, work with it as well.
type Error struct {
	// Method is the call's method, such as "/kontiki.v1.Objects/Create", and Endpoint the master's address.
	Method, Endpoint string
	Code             codes.Code
	Reason           metav1.StatusReason
	Message          string
	// ResourceVersion is the current one of the object that a conflict is about; "" if the object does not exist.
	ResourceVersion string
	// Fields are the invalid fields of the request, if the error is about fields.
	Fields []FieldProblem
	// RetryAfter is the delay that the server asks for before a retry; 0 if it does not say.
	RetryAfter time.Duration

	status metav1.Status
	grpc   *status.Status
	class  error
	cause  error // the context's error, if it ended the call
	// operation is the index of the transaction's operation that the error is about, or -1.
	operation int
	// answered means that the error is from the API, and not from a proxy or the transport.
	answered bool
	// undone means that nothing was changed, and that another master may be able to serve the call.
	undone bool
	// broken means that the response did not arrive.
	broken bool
}

// FieldProblem is an invalid field of a request, with a description.
type FieldProblem struct {
	// Path leads through the message of the call, and on into the document that it contains: "label_selector",
	// "object.data.spec.replicas", "operations[3].check.resource_version".
	Path, Problem string
}

// Error implements error.
func (e *Error) Error() string {
	method := e.Method[strings.LastIndexByte(e.Method, '/')+1:]
	text := e.Message
	if e.class == ErrOutcomeUnknown {
		text = "the outcome is unknown, read before trying again: " + text
	}
	if e.answered && e.class != ErrOutcomeUnknown {
		return fmt.Sprintf("%s: %s", strings.ToLower(method), text)
	}
	return fmt.Sprintf("%s (by %s): %s", strings.ToLower(method), e.Endpoint, text)
}

// Is matches the error's class.
func (e *Error) Is(target error) bool { return e.class == target }

// Unwrap returns the context's error if that ended the call.
func (e *Error) Unwrap() error { return e.cause }

// Status returns the Kubernetes Status with which REST responds for the same error.
func (e *Error) Status() metav1.Status { return e.status }

// GRPCStatus returns the gRPC status as it was received.
func (e *Error) GRPCStatus() *status.Status { return e.grpc }

const domain = "kontiki"

// wrap converts the failure of a call. sent means that the request may have reached the master, write that it changes something.
func wrap(ctx context.Context, err error, method, endpoint string, sent, write bool) *Error {
	st := status.Convert(err)
	e := &Error{Method: method, Endpoint: endpoint, Code: st.Code(), Message: st.Message(), grpc: st, operation: -1}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.Domain == domain {
				e.Reason, e.answered = metav1.StatusReason(d.Reason), true
			}
		case *errdetails.BadRequest:
			for _, wrong := range d.FieldViolations {
				e.Fields = append(e.Fields, FieldProblem{wrong.Field, wrong.Description})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.RetryDelay.AsDuration()
		case *kontikiv1.StatusDetail:
			if json.Unmarshal(d.Status, &e.status) != nil {
				e.status = metav1.Status{} // the code and the message remain
			}
		case *kontikiv1.ConflictDetail:
			e.ResourceVersion = d.ResourceVersion
		case *kontikiv1.TransactionDetail:
			e.operation = int(d.Operation)
		}
	}
	if e.status.Status == "" {
		e.status = metav1.Status{Status: metav1.StatusFailure, Message: e.Message, Reason: e.Reason}
	}
	if !e.answered && (e.Code == codes.Canceled || e.Code == codes.DeadlineExceeded) {
		if e.cause = ctx.Err(); e.cause == nil && e.Code == codes.DeadlineExceeded {
			e.cause = context.DeadlineExceeded // gRPC's timer fired slightly before the context's
		}
	}
	switch e.Code {
	case codes.Unavailable:
		e.undone = e.answered
		e.broken = !e.answered
	case codes.ResourceExhausted:
		e.undone = e.busy()
	case codes.Canceled, codes.Unknown, codes.Internal:
		// The stream ended without a response: gRPC's messages for a reset, and for a connection that this client closed.
		e.broken = !e.answered && e.cause == nil
	}
	e.undone = e.undone || e.broken && !sent
	if class, ok := classOfReason[e.Reason]; ok {
		e.class = class
	} else if class, ok := classOfCode[e.Code]; ok {
		e.class = class
	} else {
		e.class = ErrInternal
	}
	switch {
	case write && sent && (e.broken || e.cause != nil || e.answered && e.Code == codes.DeadlineExceeded):
		e.class = ErrOutcomeUnknown
	case e.broken || e.cause != nil:
		e.class = ErrUnavailable
	}
	return e
}

// busy says whether the master refused the call because it serves as many as it may. An eviction that must wait has a cause.
func (e *Error) busy() bool {
	return e.Code == codes.ResourceExhausted && e.answered && e.RetryAfter > 0 && !apierrors.HasStatusCause(e, policyv1.DisruptionBudgetCause)
}

// elsewhere says whether the call can be retried on another master without the risk that it is carried out twice.
func (e *Error) elsewhere(write bool) bool { return e.undone || e.broken && !write }

// invalid returns an error about the caller's arguments that was found without a server.
func invalid(format string, args ...any) error {
	return fmt.Errorf("client: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
