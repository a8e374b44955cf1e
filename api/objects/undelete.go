package objects

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/objects/deleted"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/internal/sealed"
)

// DeletedPath is the path under which deleted objects are listed and read, by which requests are recorded.
const DeletedPath = "/kontiki/v1/deleted"

// keepDeleted returns the operations that keep a copy of an object which is removed, so that it can be brought back (package deleted).
// If that is not possible, as when the plugin that has the encryption key does not answer, the object is removed all the same.
func (s *Service) keepDeleted(r *Request, view kv.View, stored *kv.Version, old registry.Object) []kv.Op {
	kind := r.Kind.Storage()
	if metav1.GetControllerOfNoCopy(old) != nil || kind.KeepDeleted != nil && !kind.KeepDeleted(old) || !deleted.Room(view, stored.Value) {
		return nil
	}
	value, err := s.open(r.Kind, stored)
	if err != nil {
		return nil
	}
	o := &deleted.Object{
		Group: kind.Group, Resource: kind.Resource, Namespace: r.Namespace, Name: r.Name, Uid: string(old.GetUID()),
		Deleted: s.now().UnixNano(), Value: value,
	}
	if r.Namespace != "" {
		o.NamespaceUid = s.namespaceUID(view, r.Namespace)
	}
	if r.User != nil {
		o.User = r.User.GetName()
	}
	encoded, err := deleted.Encode(o)
	if err != nil {
		return nil
	}
	key := deleted.Key(o)
	if encoded, err = s.seal(r.Kind, key, encoded); err != nil {
		return nil
	}
	return guarded(deleted.Keep(key, encoded), encoded)
}

// namespaceUID returns the UID of a namespace, empty if there is none.
func (s *Service) namespaceUID(view kv.View, name string) string {
	kind, ok := s.Kinds().ByGroupResource("", "namespaces")
	if !ok {
		return ""
	}
	v, ok := view.Get(kind.Key("", name))
	if !ok {
		return ""
	}
	meta, err := s.Metadata(kind, v)
	if err != nil {
		return ""
	}
	return string(meta.UID)
}

// Deleted visits the deleted objects that are kept, from the latest to the oldest, until visit returns false. What cannot be decrypted is
// left out. scope is the namespace in which the caller must be allowed to read such an object: the one that it was in or, if that does not
// exist any more, though one of the same name may, all of them ("").
func (s *Service) Deleted(ctx context.Context, visit func(o *deleted.Object, scope string) bool) error {
	view, err := s.readView(ctx)
	if err != nil {
		return err
	}
	versions := make([]*kv.Version, 0, view.Count(deleted.Prefix, kv.PrefixEnd(deleted.Prefix)))
	view.Range(deleted.Prefix, kv.PrefixEnd(deleted.Prefix), func(v *kv.Version) bool {
		versions = append(versions, v)
		return true
	})
	uids := map[string]string{}
	for i := len(versions) - 1; i >= 0; i-- {
		o, err := s.openDeleted(versions[i])
		if err != nil {
			continue
		}
		uid, known := uids[o.Namespace]
		if !known {
			uid = s.namespaceUID(view, o.Namespace)
			uids[o.Namespace] = uid
		}
		if !visit(o, scopeOf(o, uid)) {
			break
		}
	}
	return nil
}

// scopeOf returns the namespace in which rights on a deleted object count. uid is that of the present namespace of the name.
func scopeOf(o *deleted.Object, uid string) string {
	if uid == "" || uid != o.NamespaceUid {
		return ""
	}
	return o.Namespace
}

func (s *Service) openDeleted(v *kv.Version) (*deleted.Object, error) {
	value := v.Value
	if _, ok := sealed.Key(value); ok {
		var err error
		if value, err = s.sealer.Open(v.Key, value); err != nil {
			return nil, fmt.Errorf("open %s: %w", v.Key, err)
		}
	}
	return deleted.Decode(value)
}

// DeletedByUID returns a deleted object that is kept, and the namespace in which rights on it count, as Deleted. Errors: not found; a
// consistent read is not possible.
func (s *Service) DeletedByUID(ctx context.Context, uid types.UID) (o *deleted.Object, scope string, err error) {
	view, v, err := s.deletedVersion(ctx, uid)
	if err != nil {
		return nil, "", err
	}
	if o, err = s.openDeleted(v); err != nil {
		return nil, "", apierrors.NewInternalError(err)
	}
	return o, scopeOf(o, s.namespaceUID(view, o.Namespace)), nil
}

// ForgetDeleted drops the copy of a deleted object: it cannot be brought back any more. Errors: not found; those of a write.
func (s *Service) ForgetDeleted(ctx context.Context, uid types.UID) error {
	_, v, err := s.deletedVersion(ctx, uid)
	if err != nil {
		return err
	}
	result, err := s.store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: deleted.Drop(v)})
	if err != nil {
		return storeError(nil, err)
	}
	if result.Failed != nil { // dropped, or re-encrypted, meanwhile
		return apierrors.NewConflict(deletedResource, string(uid), errRetry)
	}
	return nil
}

var deletedResource = schema.GroupResource{Group: "kontiki", Resource: "deletedobjects"}

func (s *Service) deletedVersion(ctx context.Context, uid types.UID) (view kv.View, found *kv.Version, err error) {
	if view, err = s.readView(ctx); err != nil {
		return nil, nil, err
	}
	view.Range(deleted.Prefix, kv.PrefixEnd(deleted.Prefix), func(v *kv.Version) bool {
		if deleted.UID(v.Key) == string(uid) {
			found = v
		}
		return found == nil
	})
	if found == nil {
		return nil, nil, apierrors.NewNotFound(deletedResource, string(uid))
	}
	return view, found, nil
}

// DecodeDeleted returns a deleted object as it was stored last, in the version that its resource is served in first. Errors: the resource is
// not served any more.
func (s *Service) DecodeDeleted(o *deleted.Object) (registry.Object, error) {
	kind, ok := s.Kinds().ByGroupResource(o.Group, o.Resource)
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: o.Group, Resource: o.Resource}, o.Name)
	}
	obj, err := kind.Load(o.Value)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("decode deleted %s %s/%s: %w", o.Resource, o.Namespace, o.Name, err))
	}
	return obj, nil
}

// TrimDeleted drops the copies of deleted objects that are too old or too many, until the context ends. It is a duty of the leader.
func (s *Service) TrimDeleted(ctx context.Context, log *slog.Logger) error {
	return deleted.Trim(ctx, s.store, s.now, log)
}

// DeletedBy returns the UID of an object of which a version is the kept copy, and who deleted it; false if it is no such copy, or cannot be decrypted.
func (s *Service) DeletedBy(v *kv.Version) (uid types.UID, user string, ok bool) {
	if !strings.HasPrefix(v.Key, deleted.Prefix) {
		return "", "", false
	}
	o, err := s.openDeleted(v)
	if err != nil {
		return "", "", false
	}
	return types.UID(o.Uid), o.User, true
}
