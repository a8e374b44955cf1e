package objects

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/objects/deleted"
	"github.com/kontiki/kontiki/api/objects/views"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// MaxTransactionOperations limits the operations of a transaction; kv.MaxCommandBytes limits its size.
const MaxTransactionOperations = 1000

// DefinedHere explains why a kind is not known to a transaction that writes definitions of custom resources, and what to do.
const DefinedHere = ": a definition of custom resources is served when the transaction that stores it has been applied; create the definition before, in a transaction of its own"

// Defines says whether objects of a kind define custom resources.
func Defines(gvk schema.GroupVersionKind) bool {
	return gvk.Group == "apiextensions.k8s.io" && gvk.Kind == "CustomResourceDefinition"
}

// Verb is the kind of an operation in a transaction.
type Verb string

// The verbs of transactions. A Check changes nothing: the transaction fails if it does not hold.
const (
	VerbCreate Verb = "create"
	VerbUpdate Verb = "update"
	VerbPatch  Verb = "patch"
	VerbApply  Verb = "apply"
	VerbDelete Verb = "delete"
	VerbCheck  Verb = "check"
)

// TxOperation is one operation of a transaction.
type TxOperation struct {
	Verb Verb
	// Request has the operation's user, target and options; DryRun of a single operation is ignored.
	Request *Request
	// Object is the object to create or update; it is only read.
	Object registry.Object
	// KeepManagedFields makes an update store the managed fields that Object has, instead of recording the change in them: to
	// restore an object exactly, ownership included.
	KeepManagedFields bool
	// Patch is the patch, or the applied configuration.
	Patch Patch
	// Delete has the options of a deletion.
	Delete *metav1.DeleteOptions
	// ResourceVersion and UID are the conditions of a Check: ResourceVersion "" requires that the object does not exist, UID ""
	// allows any UID.
	ResourceVersion string
	UID             types.UID
}

// TxResult is the result of an operation.
type TxResult struct {
	// Object is the stored object, or, if it is gone, its last state; nil for a Check.
	Object        registry.Object
	Created, Gone bool
}

// TxError says because of which operation a transaction was not carried out, and why. Nothing was stored.
type TxError struct {
	Operation int
	Err       error
}

func (e *TxError) Error() string { return fmt.Sprintf("operations[%d]: %v", e.Operation, e.Err) }

// Unwrap returns the reason.
func (e *TxError) Unwrap() error { return e.Err }

// Status returns the reason's Status, with the operation's index. It implements apierrors.APIStatus.
func (e *TxError) Status() metav1.Status {
	var status metav1.Status
	if known := apierrors.APIStatus(nil); errors.As(e.Err, &known) {
		status = known.Status()
		status = *status.DeepCopy()
	} else {
		status = apierrors.NewInternalError(e.Err).Status()
	}
	status.Message = fmt.Sprintf("operations[%d]: %s", e.Operation, status.Message)
	if status.Details == nil {
		status.Details = &metav1.StatusDetails{}
	}
	status.Details.Causes = append(status.Details.Causes, metav1.StatusCause{
		Type: "TransactionOperation", Message: "nothing was stored", Field: fmt.Sprintf("operations[%d]", e.Operation),
	})
	return status
}

// Transact carries out all operations with one command, or none. Each passes defaulting, admission, validation and allocation as it
// would alone, and sees the effects of those before it. Readers see all of it at one instant, watchers in order.
//
// Everything that an operation was prepared against must be unchanged when the command is applied. Otherwise all operations are
// prepared again, until the command succeeds or one of them can no longer be carried out. So callers need not retry patches,
// applies and unconditional updates, and an operation whose condition (a resource version, a Check) no longer holds fails.
//
// Errors: a *TxError that names the operation; all others concern the whole transaction.
func (s *Service) Transact(ctx context.Context, operations []TxOperation, dryRun bool) ([]TxResult, uint64, error) {
	if len(operations) == 0 {
		return nil, 0, InField("operations", apierrors.NewBadRequest("operations: a transaction needs at least one"))
	}
	if len(operations) > MaxTransactionOperations {
		return nil, 0, InField("operations", apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("operations: %d are too many, the limit is %d; split them, or create what does not depend on the rest first",
			len(operations), MaxTransactionOperations)))
	}
	var results []TxResult
	var revision uint64
	operations = slices.Clone(operations)
	for i := range operations {
		operations[i].Request = operations[i].Request.withMemo()
	}
	err := s.attempt(ctx, func(view kv.View) (err error) {
		results, revision, err = s.transactOnce(ctx, view, operations, dryRun)
		return err
	})
	if errors.Is(err, errRetry) {
		err = apierrors.NewConflict(operations[0].Request.Kind.GroupResource(), operations[0].Request.Name,
			errors.New("the objects of the transaction keep changing; nothing was stored, try again"))
	}
	if err != nil {
		return nil, 0, err
	}
	return results, revision, nil
}

func (s *Service) transactOnce(ctx context.Context, view kv.View, operations []TxOperation, dryRun bool) ([]TxResult, uint64, error) {
	staged := views.NewOverlay(view)
	within := *s
	within.store = staged
	within.timeline = nil // what is staged may never be stored
	results := make([]TxResult, len(operations))
	keys := make([]string, len(operations))
	first := map[string]int{} // from an object's key to its operation
	for i := range operations {
		staged.Operation = i
		var err error
		if results[i], keys[i], err = within.operate(ctx, &operations[i]); err != nil {
			return nil, 0, &TxError{i, err}
		}
		if other, twice := first[keys[i]]; twice {
			return nil, 0, &TxError{i, InField(ObjectsName, apierrors.NewBadRequest(fmt.Sprintf("%s %q is also in operations[%d]; an object can be in one operation of a transaction only",
				operations[i].Request.Kind.Resource, registryName(&operations[i], results[i]), other)))}
		}
		first[keys[i]] = i
		staged.Pin(keys[i])
	}
	if dryRun {
		if ops, _ := deleted.Forget(staged.Command()); sizeOf(ops) > kv.MaxCommandBytes {
			return nil, 0, errTransactionTooLarge()
		}
		for i := range results {
			if obj := results[i].Object; obj != nil && staged.Changed(keys[i]) {
				version := ""
				if v, ok := view.Get(keys[i]); ok {
					version = FormatRevision(v.ModRevision)
				}
				obj.SetResourceVersion(version)
			}
		}
		return results, view.Revision(), nil
	}
	ops, owners := staged.Command()
	if sizeOf(ops) > kv.MaxCommandBytes {
		ops, owners = deleted.Forget(ops, owners)
	}
	result, err := s.store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
	if err != nil {
		if errors.Is(err, kv.ErrTooLarge) {
			return nil, 0, errTransactionTooLarge()
		}
		return nil, 0, storeError(operations[0].Request, err)
	}
	if result.Failed != nil {
		return nil, 0, fmt.Errorf("operations[%d]: %w", owners[result.Failed.Index], errRetry)
	}
	revisions := make(map[string]uint64, len(ops))
	for i, op := range ops {
		revisions[op.Key] = result.Revisions[i]
	}
	for i := range results {
		if revision := revisions[keys[i]]; revision != 0 && results[i].Object != nil {
			results[i].Object.SetResourceVersion(FormatRevision(revision))
		}
	}
	return results, result.Revision, nil
}

func errTransactionTooLarge() error {
	return InField("operations", apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("operations: the transaction is too large: its objects may have %d bytes together as they are stored", kv.MaxCommandBytes)))
}

// sizeOf returns the size of operations in a command, except for some bytes of each, so that a dry run never refuses what would
// succeed.
func sizeOf(ops []kv.Op) (bytes int) {
	for i := range ops {
		bytes += len(ops[i].Key) + len(ops[i].Value)
	}
	return bytes
}

// operate carries out one operation on a service whose store is an overlay, and returns its object's key.
func (s *Service) operate(ctx context.Context, op *TxOperation) (result TxResult, key string, err error) {
	request := *op.Request
	request.DryRun = false // the transaction as a whole may be one
	request.again = nil    // operations get copies of the object, as the transaction may be attempted again
	r := &request
	if !r.Kind.Stored() {
		return result, "", apierrors.NewBadRequest(fmt.Sprintf("a %s cannot be a part of a transaction, because it is not stored", r.Kind.Kind))
	}
	switch op.Verb {
	case VerbCreate:
		create := request
		create.Name = "" // as for single creations
		result.Object, err = s.Create(ctx, &create, op.Object.DeepCopyObject().(registry.Object))
		result.Created = true
	case VerbUpdate:
		result.Object, result.Created, err = s.update(ctx, r, op.Object.DeepCopyObject().(registry.Object), op.KeepManagedFields)
	case VerbPatch, VerbApply:
		if applies := op.Patch.Type == types.ApplyYAMLPatchType; applies != (op.Verb == VerbApply) {
			return result, "", apierrors.NewBadRequest(fmt.Sprintf("a patch of type %q is not supported for %s", op.Patch.Type, op.Verb))
		}
		result.Object, result.Created, err = s.Patch(ctx, r, op.Patch)
	case VerbDelete:
		result.Object, result.Gone, err = s.Delete(ctx, r, op.Delete)
	case VerbCheck:
		err = s.checkObject(r, op)
	default:
		err = apierrors.NewBadRequest(fmt.Sprintf("%q is not one of create, update, patch, apply, delete, check", op.Verb))
	}
	if err != nil {
		return result, "", err
	}
	return result, r.Kind.Key(r.Namespace, registryName(op, result)), nil
}

// registryName returns the name of an operation's object, which may have been generated.
func registryName(op *TxOperation, result TxResult) string {
	if result.Object != nil {
		return result.Object.GetName()
	}
	return op.Request.Name
}

// checkObject checks that an object meets the conditions of a Check.
func (s *Service) checkObject(r *Request, op *TxOperation) error {
	v, ok := s.store.View().Get(r.Kind.Key(r.Namespace, r.Name))
	if op.ResourceVersion == "" {
		if op.UID != "" {
			return InField("uid", apierrors.NewBadRequest("uid: a check that the object does not exist cannot have one; set resourceVersion"))
		}
		if ok {
			return apierrors.NewAlreadyExists(r.Kind.GroupResource(), r.Name)
		}
		return nil
	}
	revision, err := ParseRevision(op.ResourceVersion)
	if err != nil || revision == 0 {
		return InField("resourceVersion", apierrors.NewBadRequest(fmt.Sprintf("resourceVersion: %q cannot be an object's", op.ResourceVersion)))
	}
	if !ok {
		return notFound(r)
	}
	if v.ModRevision != revision {
		return InField("resourceVersion", apierrors.NewConflict(r.Kind.GroupResource(), r.Name, fmt.Errorf("the object's resourceVersion is %d, the check requires %d", v.ModRevision, revision)))
	}
	if op.UID == "" {
		return nil
	}
	obj, err := s.Decode(r.Kind, v)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if obj.GetUID() != op.UID {
		return InField("uid", apierrors.NewConflict(r.Kind.GroupResource(), r.Name, fmt.Errorf("the object's UID is %s, the check requires %s", obj.GetUID(), op.UID)))
	}
	return nil
}

// Attributes returns what the operation's user must be allowed to do.
func (op *TxOperation) Attributes() *authorizer.AttributesRecord {
	r := *op.Request
	verb := string(op.Verb)
	switch op.Verb {
	case VerbCreate:
		r.Name = "" // as for single creations
	case VerbApply:
		verb = string(VerbPatch)
	case VerbCheck:
		verb = "get"
	}
	return r.Attributes(verb)
}
