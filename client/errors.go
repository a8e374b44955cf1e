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
	// ErrConflict says that the object has changed: Error.ResourceVersion has what it is at now. Read, and try again.
	ErrConflict = errors.New("conflict")
	// ErrInvalid says that the request is wrong; Error.Fields names the fields.
	ErrInvalid      = errors.New("invalid")
	ErrUnauthorized = errors.New("unauthorized")
	ErrForbidden    = errors.New("forbidden")
	// ErrExpired says that the asked resource version is no longer in the history. Watch handles it by itself.
	ErrExpired = errors.New("expired")
	// ErrTooManyRequests says that the server asks for slower requests, or that an eviction must wait; Error.RetryAfter may say
	// how long.
	ErrTooManyRequests = errors.New("too many requests")
	ErrUnsupported     = errors.New("unsupported")
	// ErrInternal says that the server has a fault. Nothing is promised of what a write did.
	ErrInternal = errors.New("internal error")
	// ErrUnavailable says that no master served the request in time, and that nothing was changed.
	ErrUnavailable = errors.New("unavailable")
	// ErrOutcomeUnknown says that a write was sent and its answer did not come: it may have been carried out, or may be yet.
	// Read before trying again. Writes that say what they expect (a resource version, a create, a check) may just be tried
	// again: ErrConflict or ErrAlreadyExists then tell that the first try was carried out, or somebody else's.
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

// classOfCode is for answers without a reason that is known here.
var classOfCode = map[codes.Code]error{
	codes.InvalidArgument: ErrInvalid, codes.Unauthenticated: ErrUnauthorized, codes.PermissionDenied: ErrForbidden,
	codes.NotFound: ErrNotFound, codes.AlreadyExists: ErrAlreadyExists, codes.Aborted: ErrConflict, codes.FailedPrecondition: ErrConflict,
	codes.OutOfRange: ErrExpired, codes.ResourceExhausted: ErrTooManyRequests, codes.Unimplemented: ErrUnsupported,
	codes.Unavailable: ErrUnavailable, codes.DeadlineExceeded: ErrUnavailable, codes.Canceled: ErrUnavailable,
}

// Error is why a call failed. errors.Is tells its class, and whether the caller's context ended it; apimachinery's
// errors.IsNotFound and the like, and gRPC's status.Code, understand it as well.
type Error struct {
	// Method is the call's, such as "/kontiki.v1.Objects/Create", and Endpoint the master's.
	Method, Endpoint string
	Code             codes.Code
	Reason           metav1.StatusReason
	Message          string
	// ResourceVersion is what the object of a conflict is at now; "" if it is not there.
	ResourceVersion string
	// Fields are the fields of the request that are wrong, of errors that are about any.
	Fields []FieldProblem
	// RetryAfter is when the server wants to be asked again; 0 if it does not say.
	RetryAfter time.Duration

	status metav1.Status
	grpc   *status.Status
	class  error
	cause  error // the context's, if it ended the call
	// operation is the index of a transaction's operation, -1 without.
	operation int
	// answered says that the API answered this, and no proxy or transport.
	answered bool
	// undone says that nothing was changed, and that another master may do better.
	undone bool
	// broken says that the answer did not come.
	broken bool
}

// FieldProblem is a field of a request, and what is wrong with it.
type FieldProblem struct {
	// Path leads through the message of the call, and on into the document that it has: "label_selector",
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

// Is implements the classes.
func (e *Error) Is(target error) bool { return e.class == target }

// Unwrap is the context's error if that ended the call.
func (e *Error) Unwrap() error { return e.cause }

// Status is the Kubernetes Status that REST answers for the same error.
func (e *Error) Status() metav1.Status { return e.status }

// GRPCStatus is the status as it came.
func (e *Error) GRPCStatus() *status.Status { return e.grpc }

const domain = "kontiki"

// wrap explains the failure of a call. sent says that the request may have reached the master, and write that it changes
// something.
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
				e.status = metav1.Status{} // the code and the message still tell
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
			e.cause = context.DeadlineExceeded // gRPC's timer was a little earlier than the context's
		}
	}
	switch e.Code {
	case codes.Unavailable:
		e.undone = e.answered
		e.broken = !e.answered
	case codes.ResourceExhausted:
		e.undone = e.busy()
	case codes.Canceled, codes.Unknown, codes.Internal:
		// Ends of a stream without an answer: gRPC's words for a reset, and for a connection that this client gave up.
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

// busy says that a master serves as many calls as it may, and has not begun with this one. An eviction that must wait names a cause.
func (e *Error) busy() bool {
	return e.Code == codes.ResourceExhausted && e.answered && e.RetryAfter > 0 && !apierrors.HasStatusCause(e, policyv1.DisruptionBudgetCause)
}

// elsewhere says that another master may do what this one did not, without any risk that it is done twice.
func (e *Error) elsewhere(write bool) bool { return e.undone || e.broken && !write }

// invalid is an error of the caller that no server needed to find.
func invalid(format string, args ...any) error {
	return fmt.Errorf("client: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
