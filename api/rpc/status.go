package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/objects"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Domain is the domain of every ErrorInfo.
const Domain = "kontiki"

// Errors are sent in the trailers of their stream, whose size clients limit (to 64 KiB in Node).
const (
	maxMessageBytes = 4 << 10
	maxDetailBytes  = 8 << 10
	maxProblemBytes = 1 << 10 // for one field
)

// conflictError has what the response to a conflict contains besides its Status.
type conflictError struct {
	error
	resourceVersion string
}

func (e *conflictError) Unwrap() error { return e.error }

// Status returns the gRPC status of an error: a canonical code, a message that names the field that it is about, and details with
// that field and with the Status that REST responds with.
func Status(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	known := metav1.Status{}
	if api := interface{ Status() metav1.Status }(nil); !errors.As(err, &api) {
		// A cancellation or deadline of the client is not an error of the API.
		switch {
		case errors.Is(err, context.Canceled):
			return status.New(codes.Canceled, err.Error())
		case errors.Is(err, context.DeadlineExceeded):
			return status.New(codes.DeadlineExceeded, err.Error())
		}
	}
	known = *objects.StatusOf(err)
	code := codeOf(&known)
	fields, message := fieldsOf(err, &known, code)
	details := []protoadapt.MessageV1{
		protoadapt.MessageV1Of(&errdetails.ErrorInfo{Domain: Domain, Reason: string(known.Reason)}),
		protoadapt.MessageV1Of(&kontikiv1.StatusDetail{Status: statusJSON(known)}),
	}
	if known.Details != nil && known.Details.RetryAfterSeconds > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(known.Details.RetryAfterSeconds) * time.Second)}))
	}
	var conflict *conflictError
	if errors.As(err, &conflict) {
		details = append(details, protoadapt.MessageV1Of(&kontikiv1.ConflictDetail{ResourceVersion: conflict.resourceVersion}))
	}
	var failed *objects.TxError
	if errors.As(err, &failed) {
		details = append(details, protoadapt.MessageV1Of(&kontikiv1.TransactionDetail{Operation: int32(failed.Operation)}))
	}
	if len(fields) > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.BadRequest{FieldViolations: fields}))
	}
	plain := status.New(code, shortened(message, maxMessageBytes))
	if full, err := plain.WithDetails(details...); err == nil {
		return full
	}
	return plain
}

// shortened returns a text cut to at most that many bytes, without invalid UTF-8.
func shortened(text string, most int) string {
	if len(text) > most {
		return fmt.Sprintf("%s... (%d more bytes)", strings.ToValidUTF8(text[:most], ""), len(text)-most)
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// statusJSON returns a Status as in REST, except that it omits causes if there are too many.
func statusJSON(s metav1.Status) []byte {
	for {
		raw, _ := json.Marshal(s) // plain fields can always be encoded
		if len(raw) <= maxDetailBytes {
			return raw
		}
		if s.Details != nil && len(s.Details.Causes) > 1 {
			cut := *s.Details
			cut.Causes = cut.Causes[:len(cut.Causes)/2]
			s.Details = &cut
			continue
		}
		if len(s.Message) <= maxMessageBytes {
			s.Details = nil
			continue
		}
		s.Message = strings.ToValidUTF8(s.Message[:maxMessageBytes/2], "") + "..."
	}
}

var codeOfReason = map[metav1.StatusReason]codes.Code{
	metav1.StatusReasonBadRequest:            codes.InvalidArgument,
	metav1.StatusReasonInvalid:               codes.InvalidArgument,
	metav1.StatusReasonRequestEntityTooLarge: codes.InvalidArgument,
	metav1.StatusReasonUnauthorized:          codes.Unauthenticated,
	metav1.StatusReasonForbidden:             codes.PermissionDenied,
	metav1.StatusReasonNotFound:              codes.NotFound,
	metav1.StatusReasonAlreadyExists:         codes.AlreadyExists,
	metav1.StatusReasonConflict:              codes.Aborted,
	metav1.StatusReasonExpired:               codes.OutOfRange,
	metav1.StatusReasonGone:                  codes.OutOfRange,
	metav1.StatusReasonMethodNotAllowed:      codes.Unimplemented,
	metav1.StatusReasonNotAcceptable:         codes.Unimplemented,
	metav1.StatusReasonUnsupportedMediaType:  codes.Unimplemented,
	metav1.StatusReasonTooManyRequests:       codes.ResourceExhausted,
	metav1.StatusReasonServerTimeout:         codes.Unavailable,
	metav1.StatusReasonServiceUnavailable:    codes.Unavailable,
	metav1.StatusReasonTimeout:               codes.DeadlineExceeded,
	metav1.StatusReasonInternalError:         codes.Internal,
}

// codeOfHTTP is for errors whose reason has no code.
var codeOfHTTP = map[int32]codes.Code{
	http.StatusBadRequest: codes.InvalidArgument, http.StatusUnprocessableEntity: codes.InvalidArgument,
	http.StatusUnauthorized: codes.Unauthenticated, http.StatusForbidden: codes.PermissionDenied,
	http.StatusNotFound: codes.NotFound, http.StatusConflict: codes.Aborted, http.StatusGone: codes.OutOfRange,
	http.StatusNotImplemented: codes.Unimplemented, http.StatusTooManyRequests: codes.ResourceExhausted,
	http.StatusServiceUnavailable: codes.Unavailable, http.StatusInsufficientStorage: codes.Unavailable,
	http.StatusGatewayTimeout: codes.DeadlineExceeded,
}

func codeOf(s *metav1.Status) codes.Code {
	if s.Details != nil {
		for _, cause := range s.Details.Causes {
			if cause.Type == metav1.CauseTypeResourceVersionTooLarge {
				return codes.Unavailable // nothing was attempted; this master is not ready yet
			}
		}
	}
	if code, ok := codeOfReason[s.Reason]; ok {
		return code
	}
	if code, ok := codeOfHTTP[s.Code]; ok {
		return code
	}
	return codes.Internal
}
