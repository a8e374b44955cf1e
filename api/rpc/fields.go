package rpc

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/objects"
)

// fieldError says which field of a call's message an error is about. What the object service finds wrong in a document (an
// object, a patch) is below that field; what it finds wrong beside documents, options names.
type fieldError struct {
	error
	field string
}

func (e *fieldError) Unwrap() error { return e.error }

// about adds a field of the message to an error; nil stays nil.
func about(field string, err error) error {
	if err == nil {
		return nil
	}
	return &fieldError{err, field}
}

// Wrong refuses a field of a call's message.
func Wrong(field, format string, args ...any) error {
	return about(field, apierrors.NewBadRequest(field+": "+fmt.Sprintf(format, args...)))
}

// optionFields are the fields of messages for what Kubernetes has in options and in queries.
var optionFields = map[string]string{
	"fieldManager": "options.field_manager", "fieldValidation": "options.field_validation", "dryRun": "options.dry_run", "force": "force",
	"propagationPolicy": "delete_options.propagation_policy", "gracePeriodSeconds": "delete_options.grace_period_seconds",
	"preconditions.uid": "delete_options.uid", "preconditions.resourceVersion": "delete_options.resource_version",
	"resourceVersion": "resource_version", "resourceVersionMatch": "resource_version_match", "sendInitialEvents": "send_initial_events",
	"labelSelector": "label_selector", "fieldSelector": "field_selector", "uid": "uid", "operations": "operations",
	"container": "container", "name": "name", "tailLines": "tail_lines", "sinceSeconds": "since_seconds", "limitBytes": "limit_bytes",
}

// place is where in a call's message an error is: in an operation of a transaction ("operations[3]"), there in a document
// ("create.object.data"), and in that ("metadata.namespace"). Each can be empty.
type place struct{ operation, document, field string }

func placeOf(err error) (p place) {
	for ; err != nil; err = errors.Unwrap(err) {
		switch e := err.(type) {
		case *objects.TxError:
			p.operation = fmt.Sprintf("operations[%d]", e.Operation)
		case *fieldError:
			p.document = join(p.document, e.field)
		case *objects.FieldError:
			p.field = e.Field
		}
	}
	return p
}

// path leads from the operation, or from the message if that has none, to the field.
func (p place) path() string {
	if p.field == objects.ObjectsName && p.document != "" {
		return p.document
	}
	if _, ok := optionFields[p.field]; ok {
		return p.option(p.field)
	}
	return join(p.document, p.field)
}

// option is the path to what Kubernetes has in options, which messages have beside the document.
func (p place) option(field string) string {
	option, ok := optionFields[field]
	if !ok {
		option = field
	}
	if p.operation == "" {
		return option
	}
	verb, _, _ := strings.Cut(p.document, ".")
	return join(verb, option)
}

// cause is the path to a field that validation names: of options, of the object, or the document as a whole, as which validation
// of patches names the patch.
func (p place) cause(of *metav1.StatusDetails, field string) string {
	switch {
	case of.Group == metav1.GroupName:
		return p.option(field)
	case of.Kind == "" && field == "patch":
		return p.document
	}
	return join(p.document, field)
}

func join(path, field string) string {
	if path == "" || field == "" || field[0] == '.' || field[0] == '[' { // conflicts between managers begin so
		return path + field
	}
	return path + "." + field
}

// wholeObject is how validation names the object itself.
const wholeObject = "[]"

// fieldsOf are the fields of the message that an error is about, and what is wrong with each: none for errors that are not
// about what the message says. The text is the Status's message, with the field in front unless it names it.
func fieldsOf(err error, known *metav1.Status, code codes.Code) (wrong []*errdetails.BadRequest_FieldViolation, text string) {
	p := placeOf(err)
	size := 0
	add := func(path, text string) {
		if len(path) > maxProblemBytes {
			path = p.document
		}
		text = shortened(text, maxProblemBytes)
		if size += len(path) + len(text); size <= maxDetailBytes {
			wrong = append(wrong, &errdetails.BadRequest_FieldViolation{Field: join(p.operation, path), Description: text})
		}
	}
	if (code == codes.InvalidArgument || code == codes.Aborted) && known.Details != nil {
		for _, cause := range known.Details.Causes {
			if cause.Field != "" && cause.Field != p.operation && cause.Field != wholeObject {
				add(p.cause(known.Details, cause.Field), cause.Message)
			}
		}
	}
	if size > 0 {
		return wrong, known.Message
	}
	// Of a document as a whole only those errors are that say that it is wrong; others name a field, if what the request says
	// has brought them about.
	if p.field == "" && (code != codes.InvalidArgument || p.document == "" && p.operation == "") {
		return nil, known.Message
	}
	prefix := ""
	if p.operation != "" {
		prefix = p.operation + ": "
	}
	text, path := strings.TrimPrefix(known.Message, prefix), p.path()
	// What it has of the path in front makes way for the whole path.
	if own, rest, ok := strings.Cut(text, ": "); ok && (own == p.field || own == path || strings.HasSuffix(path, "."+own)) {
		text = rest
	}
	add(path, text)
	if path != "" && !strings.Contains(": "+text, ": "+path+": ") {
		text = path + ": " + text
	}
	return wrong, prefix + text
}
