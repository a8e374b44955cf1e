package rpc

import (
	"cmp"
	"context"
	"errors"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Transact implements kontikiv1.ObjectsServer.
func (s *objectsServer) Transact(ctx context.Context, in *kontikiv1.TransactRequest) (*kontikiv1.TransactResponse, error) {
	if err := checkEncoding(in.Encoding); err != nil {
		return nil, err
	}
	if n := len(in.Operations); n > objects.MaxTransactionOperations {
		// Do not read them all; the service returns the error for too many.
		_, _, err := s.Objects.Transact(ctx, make([]objects.TxOperation, n), true)
		return nil, err
	}
	results, out, err := s.carryOut(ctx, in)
	audit.From(ctx).Transacted(results, err)
	return out, err
}

func (s *objectsServer) carryOut(ctx context.Context, in *kontikiv1.TransactRequest) ([]objects.TxResult, *kontikiv1.TransactResponse, error) {
	record := audit.From(ctx)
	if in.DryRun {
		record.Annotate(audit.DryRunAnnotation, "true")
	}
	if slices.ContainsFunc(in.Operations, defines) {
		ctx = context.WithValue(ctx, definesKey{}, true)
	}
	prepared := make([]*operation, len(in.Operations))
	operations := make([]objects.TxOperation, len(in.Operations))
	for i, message := range in.Operations {
		var err error
		ctx := ctx
		if record != nil {
			ctx = audit.With(ctx, s.recordOperation(record, i, message, in.DryRun))
		}
		if prepared[i], err = s.prepare(ctx, message, &operations[i]); err != nil {
			return nil, nil, &objects.TxError{Operation: i, Err: err}
		}
		operations[i].Request = prepared[i].request
	}
	results, revision, err := s.Objects.Transact(ctx, operations, in.DryRun)
	if err != nil {
		var failed *objects.TxError
		if errors.As(err, &failed) {
			return nil, nil, s.failed(prepared[failed.Operation].request, document(operations[failed.Operation].Verb, failed), err)
		}
		return nil, nil, err
	}
	out := &kontikiv1.TransactResponse{ResourceVersion: objects.FormatRevision(revision), Results: make([]*kontikiv1.OperationResult, len(results))}
	for i, result := range results {
		e, err := prepared[i].encoder(in.Encoding)
		if err != nil {
			return nil, nil, err
		}
		one := &kontikiv1.OperationResult{Created: result.Created, Gone: result.Gone, Warnings: prepared[i].warnings.Texts()}
		if one.Object, err = e.object(result.Object); err != nil {
			return nil, nil, err
		}
		out.Results[i] = one
	}
	return results, out, nil
}

// definesKey is in the context of transactions of which an operation writes a definition of custom resources.
type definesKey struct{}

func defines(in *kontikiv1.Operation) bool {
	kind := cmp.Or(in.GetCreate().GetObject().GetKind(), in.GetUpdate().GetObject().GetKind(), in.GetApply().GetReference().GetKind())
	return objects.Defines(schema.GroupVersionKind{Group: kind.GetGroup(), Version: kind.GetVersion(), Kind: kind.GetKind()})
}

// prepare decodes one operation, and checks that the caller may do it.
func (s *objectsServer) prepare(ctx context.Context, in *kontikiv1.Operation, out *objects.TxOperation) (o *operation, err error) {
	var options *kontikiv1.WriteOptions
	switch op := in.GetOperation().(type) {
	case *kontikiv1.Operation_Create:
		out.Verb, options = objects.VerbCreate, op.Create.GetOptions()
		if o, out.Object, err = s.prepareCreate(ctx, op.Create); err == nil {
			o.request.Name = out.Object.GetName()
		}
	case *kontikiv1.Operation_Update:
		out.Verb, options = objects.VerbUpdate, op.Update.GetOptions()
		o, out.Object, err = s.prepareUpdate(ctx, op.Update)
	case *kontikiv1.Operation_Patch:
		out.Verb, options = objects.VerbPatch, op.Patch.GetOptions()
		o, out.Patch, err = s.preparePatch(ctx, op.Patch)
	case *kontikiv1.Operation_Apply:
		out.Verb, options = objects.VerbApply, op.Apply.GetOptions()
		o, out.Patch, err = s.prepareApply(ctx, op.Apply)
	case *kontikiv1.Operation_Delete:
		out.Verb, options = objects.VerbDelete, op.Delete.GetOptions()
		o, out.Delete, err = s.prepareDelete(ctx, op.Delete)
	case *kontikiv1.Operation_Check:
		out.Verb = objects.VerbCheck
		out.ResourceVersion, out.UID = op.Check.GetResourceVersion(), types.UID(op.Check.GetUid())
		if o, err = s.on(ctx, op.Check.GetReference(), ""); err == nil {
			if err = o.authorize("get"); err == nil {
				err = o.scoped(true)
			}
		}
	default:
		err = apierrors.NewBadRequest("exactly one of create, update, apply, patch, delete and check must be given")
	}
	if err == nil && options.GetDryRun() {
		err = Wrong("options.dry_run", "one operation cannot be dry; set dry_run of the transaction")
	}
	return o, about(string(out.Verb), err)
}

// document returns the field of an operation's message that an error of the object service is about.
func document(verb objects.Verb, failed *objects.TxError) string {
	within := map[objects.Verb]string{objects.VerbCreate: "object.data", objects.VerbUpdate: "object.data", objects.VerbPatch: "patch", objects.VerbApply: "configuration"}
	if wrong := (*objects.FieldError)(nil); errors.As(failed, &wrong) && wrong.Field == objects.ObjectsName {
		within = map[objects.Verb]string{objects.VerbCreate: "object", objects.VerbUpdate: "object"}
		return join(string(verb), cmp.Or(within[verb], "reference"))
	}
	return join(string(verb), within[verb])
}
