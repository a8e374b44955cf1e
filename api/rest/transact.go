package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	kjson "sigs.k8s.io/json"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

// TransactionsPath is the path to which transactions are posted: several objects changed atomically, which the Kubernetes API does
// not support. docs/transactions.md describes the documents.
const TransactionsPath = objects.TransactionsPath

// transaction is the body of the request.
type transaction struct {
	DryRun          bool          `json:"dryRun,omitempty"`
	FieldManager    string        `json:"fieldManager,omitempty"`
	FieldValidation string        `json:"fieldValidation,omitempty"`
	Operations      []txOperation `json:"operations"`
}

// txOperation has exactly one of its first six fields.
type txOperation struct {
	Create json.RawMessage `json:"create,omitempty"`
	Update json.RawMessage `json:"update,omitempty"`
	Apply  json.RawMessage `json:"apply,omitempty"`
	Patch  *txPatch        `json:"patch,omitempty"`
	Delete *txDelete       `json:"delete,omitempty"`
	Check  *txCheck        `json:"check,omitempty"`
	// Subresource is for update and apply, Force for apply, KeepManagedFields for update.
	Subresource       string `json:"subresource,omitempty"`
	Force             bool   `json:"force,omitempty"`
	KeepManagedFields bool   `json:"keepManagedFields,omitempty"`
}

type txReference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

type txPatch struct {
	txReference
	Subresource string `json:"subresource,omitempty"`
	// Type is merge, strategic or json.
	Type  string          `json:"type"`
	Patch json.RawMessage `json:"patch"`
}

type txDelete struct {
	txReference
	Options *metav1.DeleteOptions `json:"options,omitempty"`
}

type txCheck struct {
	txReference
	ResourceVersion string    `json:"resourceVersion,omitempty"`
	UID             types.UID `json:"uid,omitempty"`
}

// transactionResult is the body of the response.
type transactionResult struct {
	ResourceVersion string     `json:"resourceVersion"`
	Results         []txResult `json:"results"`
}

type txResult struct {
	Object   registry.Object `json:"object,omitempty"`
	Created  bool            `json:"created,omitempty"`
	Gone     bool            `json:"gone,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
}

var patchTypes = map[string]types.PatchType{"merge": types.MergePatchType, "strategic": types.StrategicMergePatchType, "json": types.JSONPatchType}

// check validates the options, which are those of single writes.
func (t *transaction) check() error {
	errs := metav1validation.ValidateFieldManager(t.FieldManager, field.NewPath("fieldManager"))
	errs = append(errs, metav1validation.ValidateFieldValidation(field.NewPath("fieldValidation"), t.FieldValidation)...)
	if len(errs) > 0 {
		return objects.Invalid(transactionKind, "", errs)
	}
	return nil
}

// defines says whether an operation writes a definition of custom resources.
func (t *transaction) defines() bool {
	return slices.ContainsFunc(t.Operations, func(op txOperation) bool {
		for _, object := range []json.RawMessage{op.Create, op.Update, op.Apply} {
			var head struct{ APIVersion, Kind string }
			if object != nil && json.Unmarshal(object, &head) == nil && objects.Defines(schema.FromAPIVersionAndKind(head.APIVersion, head.Kind)) {
				return true
			}
		}
		return false
	})
}

// transactionKind is the kind of a transaction in errors.
var transactionKind = schema.GroupKind{Group: "kontiki", Kind: "Transaction"}

// transact carries out a transaction. Each of its operations is authorized separately.
func (c *call) transact() error {
	if c.r.Method != http.MethodPost {
		return apierrors.NewMethodNotSupported(schema.GroupResource{Group: "kontiki", Resource: "transactions"}, c.r.Method)
	}
	if auth.IsAnonymous(c.user) {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	// The objects are in the body, which is not read for callers who may change nothing.
	if err := auth.MayChange(c.r.Context(), c.Authorizer, &authorizer.AttributesRecord{User: c.user, Verb: c.verb, Path: TransactionsPath}); err != nil {
		c.record.Decided(false, err.Error())
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), c.timeout())
	defer cancel()
	data, err := c.body()
	if err != nil {
		return err
	}
	var t transaction
	strict, err := kjson.UnmarshalStrict(data, &t)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("the transaction cannot be read: %v", err))
	}
	if len(strict) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("the transaction cannot be read: %v", strict[0]))
	}
	if err := t.check(); err != nil {
		return err
	}
	if t.DryRun {
		c.record.Annotate(audit.DryRunAnnotation, "true")
	}
	results, answer, err := c.carryOut(ctx, &t)
	c.record.Transacted(results, err)
	if err != nil {
		return err
	}
	writeJSON(c.w, http.StatusOK, answer)
	return nil
}

func (c *call) carryOut(ctx context.Context, t *transaction) ([]objects.TxResult, *transactionResult, error) {
	if n := len(t.Operations); n > objects.MaxTransactionOperations {
		// Do not read them all; the service returns the error for too many.
		_, _, err := c.Objects.Transact(ctx, make([]objects.TxOperation, n), true)
		return nil, nil, err
	}
	operations := make([]objects.TxOperation, len(t.Operations))
	warnings := make([][]string, len(t.Operations))
	for i := range t.Operations {
		reader := &txReader{call: c, transaction: t, place: i, warn: func(text string) { warnings[i] = append(warnings[i], text) }}
		op, err := reader.operation(&t.Operations[i])
		if err != nil {
			return nil, nil, &objects.TxError{Operation: i, Err: err}
		}
		operations[i] = *op
	}
	results, revision, err := c.Objects.Transact(ctx, operations, t.DryRun)
	if err != nil {
		return nil, nil, err
	}
	answer := &transactionResult{ResourceVersion: objects.FormatRevision(revision), Results: make([]txResult, len(results))}
	for i, r := range results {
		answer.Results[i] = txResult{Object: r.Object, Created: r.Created, Gone: r.Gone, Warnings: warnings[i]}
	}
	return results, answer, nil
}

// txReader reads one operation of a transaction.
type txReader struct {
	*call
	transaction *transaction
	// place is the operation's index in the transaction.
	place int
	warn  func(string)
	// record is the operation's record in the audit log.
	record *audit.Record
}

// operation decodes an operation, and checks that the user may do it.
func (t *txReader) operation(op *txOperation) (*objects.TxOperation, error) {
	out, err := t.read(op)
	if err != nil {
		return nil, err
	}
	if out.Object != nil {
		t.record.Request(out.Object)
	}
	a := out.Attributes()
	if err := t.as.On(t.r.Context(), t.Authorizer, t.sender, a); err != nil {
		return nil, err
	}
	if err := audit.Authorize(audit.With(t.r.Context(), t.record), t.Authorizer, a); err != nil {
		return nil, err
	}
	if len(out.Patch.Data) > 0 {
		t.record.Patch(out.Patch)
	}
	t.record.DeleteOptions(out.Delete)
	return out, nil
}

func (t *txReader) read(op *txOperation) (*objects.TxOperation, error) {
	given := 0
	for _, is := range []bool{op.Create != nil, op.Update != nil, op.Apply != nil, op.Patch != nil, op.Delete != nil, op.Check != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, apierrors.NewBadRequest("exactly one of create, update, apply, patch, delete and check must be given")
	}
	if err := op.misplaced(); err != nil {
		return nil, err
	}
	request := func(verb objects.Verb, ref txReference, subresource string) (*objects.Request, error) {
		r, err := t.txRequest(ref, subresource)
		if err == nil && t.call.record != nil {
			t.beginRecord(verb, r)
		}
		return r, err
	}
	object := func(verb objects.Verb, data []byte) (*objects.TxOperation, error) {
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Metadata   struct {
				Namespace    string `json:"namespace"`
				Name         string `json:"name"`
				GenerateName string `json:"generateName"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(data, &head); err != nil {
			at, text := string(verb), err.Error()
			if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) { // its text names types of this program
				at, text = strings.TrimSuffix(at+"."+wrong.Field, "."), "cannot be a JSON "+wrong.Value
			}
			return nil, apierrors.NewBadRequest(at + ": " + text)
		}
		if head.Metadata.Name == "" && (verb != objects.VerbCreate || head.Metadata.GenerateName == "") {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("%s.metadata.name: must be given", verb))
		}
		r, err := request(verb, txReference{APIVersion: head.APIVersion, Kind: head.Kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name}, op.Subresource)
		if err != nil {
			return nil, err
		}
		out := &objects.TxOperation{Verb: verb, Request: r, KeepManagedFields: op.KeepManagedFields}
		if verb == objects.VerbApply {
			if t.transaction.FieldManager == "" { // as for a single apply
				return nil, objects.Invalid(transactionKind, "", field.ErrorList{field.Required(field.NewPath("fieldManager"), "is required for apply")})
			}
			out.Patch = objects.Patch{Type: types.ApplyYAMLPatchType, Data: data, Force: op.Force, Validation: objects.FieldValidation(t.transaction.FieldValidation)}
			return out, nil
		}
		out.Object, err = t.Objects.DecodeJSON(r, data, objects.FieldValidation(t.transaction.FieldValidation))
		return out, err
	}
	named := func(verb objects.Verb, ref txReference, subresource string) (*objects.Request, error) {
		if ref.Name == "" {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("%s.name: must be given", verb))
		}
		return request(verb, ref, subresource)
	}
	switch {
	case op.Create != nil:
		return object(objects.VerbCreate, op.Create)
	case op.Update != nil:
		return object(objects.VerbUpdate, op.Update)
	case op.Apply != nil:
		return object(objects.VerbApply, op.Apply)
	case op.Patch != nil:
		r, err := named(objects.VerbPatch, op.Patch.txReference, op.Patch.Subresource)
		if err != nil {
			return nil, err
		}
		kind, ok := patchTypes[op.Patch.Type]
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("patch.type: %q is not one of merge, strategic, json", op.Patch.Type))
		}
		return &objects.TxOperation{Verb: objects.VerbPatch, Request: r,
			Patch: objects.Patch{Type: kind, Data: bytes.Clone(op.Patch.Patch), Validation: objects.FieldValidation(t.transaction.FieldValidation)}}, nil
	case op.Delete != nil:
		if o := op.Delete.Options; o != nil && len(o.DryRun) > 0 {
			return nil, apierrors.NewBadRequest("delete.options.dryRun: a single operation cannot be a dry run; set dryRun of the transaction")
		}
		r, err := named(objects.VerbDelete, op.Delete.txReference, "")
		return &objects.TxOperation{Verb: objects.VerbDelete, Request: r, Delete: op.Delete.Options}, err
	}
	r, err := named(objects.VerbCheck, op.Check.txReference, "")
	return &objects.TxOperation{Verb: objects.VerbCheck, Request: r, ResourceVersion: op.Check.ResourceVersion, UID: op.Check.UID}, err
}

// misplaced refuses fields that are not used by the operation, because they would have no effect.
func (op *txOperation) misplaced() error {
	switch {
	case op.Subresource != "" && op.Patch != nil:
		return apierrors.NewBadRequest("subresource: must be in patch")
	case op.Subresource != "" && op.Update == nil && op.Apply == nil:
		return apierrors.NewBadRequest("subresource: is for update, apply and patch only")
	case op.Force && op.Apply == nil:
		return apierrors.NewBadRequest("force: is for apply only")
	case op.KeepManagedFields && op.Update == nil:
		return apierrors.NewBadRequest("keepManagedFields: is for update only")
	}
	return nil
}

// txRequest returns the user, target and options of one operation.
func (t *txReader) txRequest(ref txReference, subresource string) (*objects.Request, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("apiVersion: %v", err))
	}
	if service := t.Aggregated.Now().Of(gv.Group, gv.Version); service != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("kind: %s: %s", ref.Kind, service.Unreachable()))
	}
	kind, ok := t.Objects.Kinds().ByGVK(gv.WithKind(ref.Kind))
	if !ok {
		t.catchUp()
		kind, ok = t.Objects.Kinds().ByGVK(gv.WithKind(ref.Kind))
	}
	if !ok {
		text := fmt.Sprintf("kind: no matches for kind %q in version %q", ref.Kind, ref.APIVersion)
		if t.transaction.defines() {
			text += objects.DefinedHere
		}
		return nil, apierrors.NewBadRequest(text)
	}
	if !kind.Namespaced {
		ref.Namespace = ""
	} else if ref.Namespace == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("metadata.namespace: must be given for a %s", ref.Kind))
	}
	for _, given := range [...]struct{ field, name string }{{"namespace", ref.Namespace}, {"name", ref.Name}} {
		if problems := content.IsPathSegmentName(given.name); len(problems) > 0 { // no object can have such a name, so a check for its absence would always hold
			return nil, apierrors.NewBadRequest(fmt.Sprintf("%s: %q %s", given.field, given.name, strings.Join(problems, ", ")))
		}
	}
	if text := kind.Deprecated(); text != "" {
		t.warn(text)
	}
	manager := t.request(t.transaction.FieldManager, nil).FieldManager
	return &objects.Request{User: t.user, Kind: kind, Namespace: ref.Namespace, Name: ref.Name, Subresource: subresource, FieldManager: manager, Warn: t.warn}, nil
}
