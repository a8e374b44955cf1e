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

// fieldError says which field of a call's message an error is about. Fields that the object service names in a document (an object,
// a patch) are below that field; those that it names in options are mapped by optionFields.
type fieldError struct {
	error
	field string
}

func (e *fieldError) Unwrap() error { return e.error }

// about adds a field of the message to an error; it returns nil for nil.
func about(field string, err error) error {
	if err == nil {
		return nil
	}
	return &fieldError{err, field}
}

// Wrong returns an error about a field of a call's message.
func Wrong(field, format string, args ...any) error {
	return about(field, apierrors.NewBadRequest(field+": "+fmt.Sprintf(format, args...)))
}

// optionFields maps Kubernetes' names of options and query parameters to the messages' fields.
var optionFields = map[string]string{
	"fieldManager": "options.field_manager", "fieldValidation": "options.field_validation", "dryRun": "options.dry_run", "force": "force",
	"propagationPolicy": "delete_options.propagation_policy", "gracePeriodSeconds": "delete_options.grace_period_seconds",
	"preconditions.uid": "delete_options.uid", "preconditions.resourceVersion": "delete_options.resource_version",
	"resourceVersion": "resource_version", "resourceVersionMatch": "resource_version_match", "sendInitialEvents": "send_initial_events",
	"labelSelector": "label_selector", "fieldSelector": "field_selector", "uid": "uid", "operations": "operations",
	"container": "container", "name": "name", "tailLines": "tail_lines", "sinceSeconds": "since_seconds", "limitBytes": "limit_bytes",
}

// place locates an error in a call's message: an operation of a transaction ("operations[3]"), a document in that
// ("create.object.data"), and a field in that ("metadata.namespace"). Each can be empty.
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

// path returns the path from the operation, or from the message if that has none, to the field.
func (p place) path() string {
	if p.field == objects.ObjectsName && p.document != "" {
		return p.document
	}
	if _, ok := optionFields[p.field]; ok {
		return p.option(p.field)
	}
	return join(p.document, p.field)
}

// option returns the path of an option, which messages have beside the document.
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

// cause returns the path of a field that validation names: an option, a field of the object, or the document as a whole, which
// validation of patches calls the patch.
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
	if path == "" || field == "" || field[0] == '.' || field[0] == '[' { // conflicts between managers begin like this
		return path + field
	}
	return path + "." + field
}

// wholeObject is the name that validation uses for the object itself.
const wholeObject = "[]"

// fieldsOf returns the fields of the message that an error is about, with a description of each; none for errors that are not about
// the message's content. text is the Status's message, preceded by the field unless it names it.
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
	// Only errors that say that the document itself is invalid are about the document as a whole; others name a field if the
	// request's content caused them.
	if p.field == "" && (code != codes.InvalidArgument || p.document == "" && p.operation == "") {
		return nil, known.Message
	}
	prefix := ""
	if p.operation != "" {
		prefix = p.operation + ": "
	}
	text, path := strings.TrimPrefix(known.Message, prefix), p.path()
	// If the text begins with a part of the path, replace that part by the whole path.
	if own, rest, ok := strings.Cut(text, ": "); ok && (own == p.field || own == path || strings.HasSuffix(path, "."+own)) {
		text = rest
	}
	add(path, text)
	if path != "" && !strings.Contains(": "+text, ": "+path+": ") {
		text = path + ": " + text
	}
	return wrong, prefix + text
}
