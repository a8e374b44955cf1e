package client

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Transaction collects operations that Commit carries out at one instant, or none of them. Each sees the effects of those before
// it, and no object may be in more than one. It is not safe for concurrent use. If an operation cannot be built, Commit returns the
// error.
type Transaction struct {
	client     *Client
	operations []*kontikiv1.Operation
	names      []string
	err        *TransactionError // the first
}

// Operation is the index of an operation in its transaction, from 0.
type Operation int

// TransactionError means that a transaction was not carried out, because of one operation. Its class is that of the operation's own
// error: errors.Is(err, ErrConflict).
type TransactionError struct {
	Operation Operation
	// Name describes the operation: "create ConfigMap default/settings".
	Name string
	Err  error
}

// Error implements error.
func (e *TransactionError) Error() string {
	message := e.Err.Error()
	var answered *Error
	if errors.As(e.Err, &answered) {
		message = answered.Message
	}
	return fmt.Sprintf("transaction: %s: %s", e.Name, message)
}

// Unwrap returns the operation's error.
func (e *TransactionError) Unwrap() error { return e.Err }

// Transaction begins a transaction; nothing is sent before Commit.
func (c *Client) Transaction() *Transaction { return &Transaction{client: c} }

func (t *Transaction) add(verb string, ref Ref, op *kontikiv1.Operation, err error) Operation {
	place := Operation(len(t.operations))
	t.operations = append(t.operations, op)
	t.names = append(t.names, verb+" "+ref.String())
	if err != nil && t.err == nil {
		t.err = &TransactionError{place, fmt.Sprintf("operation %d, %s", place, t.names[place]), err}
	}
	return place
}

// Create adds the creation of an object. Options are Manager and Validation.
func (t *Transaction) Create(obj Object, options ...Option) Operation {
	request, err := t.client.createRequest(obj, options)
	return t.add("create", RefTo(obj), &kontikiv1.Operation{Operation: &kontikiv1.Operation_Create{Create: request}}, err)
}

// Update adds the replacement of an object, at its resource version if it has one. Options are Manager, Validation and Subresource.
func (t *Transaction) Update(obj Object, options ...Option) Operation {
	request, err := t.client.updateRequest(obj, options)
	return t.add("update", RefTo(obj), &kontikiv1.Operation{Operation: &kontikiv1.Operation_Update{Update: request}}, err)
}

// Patch adds a patch. Options are Manager, Validation and Subresource.
func (t *Transaction) Patch(ref Ref, patch types.PatchType, document []byte, options ...Option) Operation {
	request, err := t.client.patchRequest(func(string, string) Ref { return ref }, ref.Namespace, ref.Name, patch, document, options)
	return t.add("patch", ref, &kontikiv1.Operation{Operation: &kontikiv1.Operation_Patch{Patch: request}}, err)
}

// Apply adds a server-side apply; see the function Apply. Options are Manager, Validation, Subresource and Force.
func (t *Transaction) Apply(document any, options ...Option) Operation {
	request, err := t.client.applyRequest(document, options)
	var ref Ref
	if err == nil {
		in := request.Reference
		ref = Ref{Kind: Kind{Kind: in.Kind.Kind}, Namespace: in.Namespace, Name: in.Name}
	}
	return t.add("apply", ref, &kontikiv1.Operation{Operation: &kontikiv1.Operation_Apply{Apply: request}}, err)
}

// Delete adds a deletion. Options are Grace, Propagation and OnlyAt.
func (t *Transaction) Delete(ref Ref, options ...Option) Operation {
	request, err := t.client.deleteRequest(func(string, string) Ref { return ref }, ref.Namespace, ref.Name, options)
	return t.add("delete", ref, &kontikiv1.Operation{Operation: &kontikiv1.Operation_Delete{Delete: request}}, err)
}

// Check adds the condition that an object is at a resource version (ErrConflict, or ErrNotFound); or, with "", that it does not exist.
func (t *Transaction) Check(ref Ref, resourceVersion string) Operation {
	check := &kontikiv1.Check{Reference: ref.wire(), ResourceVersion: resourceVersion}
	return t.add("check", ref, &kontikiv1.Operation{Operation: &kontikiv1.Operation_Check{Check: check}}, ref.err)
}

// CheckAbsent adds the condition that an object does not exist (ErrAlreadyExists).
func (t *Transaction) CheckAbsent(ref Ref) Operation { return t.Check(ref, "") }

// Result is the result of one operation.
type Result struct {
	// Object is the object as it was stored, its last state if it was deleted, and nil for a check. It has the Go type that Scheme
	// has for its kind, or is an *unstructured.Unstructured.
	Object Object
	// Created means that the operation created the object, and Gone that the object no longer exists.
	Created, Gone bool
}

// Committed is the result of a transaction that was carried out.
type Committed struct {
	// Results has one result for each operation, in their order.
	Results []Result
	// ResourceVersion is the cluster's after the transaction: a Watch After it does not deliver the transaction.
	ResourceVersion string
}

// ResultOf returns an operation's object as the type T. It panics if the object has another type, as a type assertion does.
func ResultOf[T Object](c *Committed, operation Operation) T { return c.Results[operation].Object.(T) }

// Commit carries the transaction out. The only option is DryRun.
//
// An error about one operation is a *TransactionError; others, such as too many operations or ErrOutcomeUnknown, are about the
// whole transaction. After ErrOutcomeUnknown either all of it was done, or nothing.
func (t *Transaction) Commit(ctx context.Context, options ...Option) (*Committed, error) {
	s, err := t.client.settle(forCommit, options)
	if err != nil {
		return nil, err
	}
	if t.err != nil {
		return nil, t.err
	}
	answer, err := t.client.objects().Transact(ctx, &kontikiv1.TransactRequest{
		Operations: t.operations, DryRun: s.write.DryRun, Encoding: t.encoding(),
	})
	if err != nil {
		var failed *Error
		if errors.As(err, &failed) && failed.operation >= 0 && failed.operation < len(t.names) {
			place := Operation(failed.operation)
			return nil, &TransactionError{place, fmt.Sprintf("operation %d, %s", place, t.names[place]), err}
		}
		return nil, err
	}
	out := &Committed{Results: make([]Result, len(answer.Results)), ResourceVersion: answer.ResourceVersion}
	for i, result := range answer.Results {
		t.client.warned(result.Warnings)
		out.Results[i].Created, out.Results[i].Gone = result.Created, result.Gone
		if out.Results[i].Object, err = decodeAny(result.Object); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// encoding returns protobuf, unless an operation's kind does not support it.
func (t *Transaction) encoding() kontikiv1.Encoding {
	for _, op := range t.operations {
		var kind *kontikiv1.Kind
		switch o := op.Operation.(type) {
		case *kontikiv1.Operation_Create:
			kind = o.Create.GetObject().GetKind()
		case *kontikiv1.Operation_Update:
			kind = o.Update.GetObject().GetKind()
		case *kontikiv1.Operation_Patch:
			kind = o.Patch.GetReference().GetKind()
		case *kontikiv1.Operation_Apply:
			kind = o.Apply.GetReference().GetKind()
		case *kontikiv1.Operation_Delete:
			kind = o.Delete.GetReference().GetKind()
		case *kontikiv1.Operation_Check:
			continue // returns no object
		}
		made, err := Scheme.New(Kind{Group: kind.GetGroup(), Version: kind.GetVersion(), Kind: kind.GetKind()})
		if _, ok := made.(message); err != nil || !ok {
			return kontikiv1.Encoding_ENCODING_JSON
		}
	}
	return kontikiv1.Encoding_ENCODING_PROTOBUF
}
