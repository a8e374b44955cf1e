package client

import (
	"strings"
	"time"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// calls is a set of calls.
type calls uint

const (
	forGet calls = 1 << iota
	forList
	forWatch
	forCreate
	forUpdate
	forPatch
	forApply
	forDelete
	forDeleteAll
	forCommit

	forWrite = forCreate | forUpdate | forPatch | forApply | forDelete | forDeleteAll
)

var callNames = map[calls]string{
	forGet: "Get", forList: "List", forWatch: "Watch", forCreate: "Create", forUpdate: "Update", forPatch: "Patch", forApply: "Apply",
	forDelete: "Delete", forDeleteAll: "DeleteAll", forCommit: "Transaction",
}

// Option is an optional part of a request. Each lists the calls that accept it; others return ErrInvalid.
type Option struct {
	name string
	with calls
	set  func(*settings)
}

type settings struct {
	kind           Kind
	labels, fields string
	version, match string
	pageSize       int32
	name           string
	subresource    string
	force          bool
	write          kontikiv1.WriteOptions
	delete         kontikiv1.DeleteOptions
}

// settle evaluates the options of one call.
func (c *Client) settle(call calls, options []Option) (*settings, error) {
	s := &settings{}
	s.write.FieldManager = c.name
	for _, o := range options {
		if o.set == nil {
			return nil, invalid("an empty Option is given")
		}
		if o.with&call == 0 {
			return nil, invalid("option %s does not go with %s", o.name, callNames[call])
		}
		o.set(s)
	}
	return s, nil
}

// OfKind sets the kind of objects whose Go type does not determine it, such as *unstructured.Unstructured. For Get, List, Watch,
// Patch, Apply, Delete and DeleteAll.
func OfKind(kind Kind) Option {
	return Option{"OfKind", forGet | forList | forWatch | forPatch | forApply | forDelete | forDeleteAll, func(s *settings) { s.kind = kind }}
}

// Labels selects by labels ("app=web,tier!=test"). For List, Watch and DeleteAll.
func Labels(selector string) Option {
	return Option{"Labels", forList | forWatch | forDeleteAll, func(s *settings) { s.labels = selector }}
}

// Fields selects by fields ("spec.nodeName=worker-1"). For List, Watch and DeleteAll.
func Fields(selector string) Option {
	return Option{"Fields", forList | forWatch | forDeleteAll, func(s *settings) { s.fields = selector }}
}

// Named restricts a Watch to one object.
func Named(name string) Option {
	return Option{"Named", forWatch, func(s *settings) { s.name = name }}
}

// NotOlderThan allows a read to return an older state, but none older than the resource version; "0" allows whatever state the
// master has. For Get and List, which otherwise include everything acknowledged before.
func NotOlderThan(resourceVersion string) Option {
	return Option{"NotOlderThan", forGet | forList, func(s *settings) { s.version = resourceVersion }}
}

// AsOf lists the state at exactly this resource version. For List; ErrExpired if the history no longer reaches back to it.
func AsOf(resourceVersion string) Option {
	return Option{"AsOf", forList, func(s *settings) { s.version, s.match = resourceVersion, exact }}
}

// After begins a Watch with the changes after a resource version, without the present objects.
func After(resourceVersion string) Option {
	return Option{"After", forWatch, func(s *settings) { s.version = resourceVersion }}
}

// PageSize limits the number of objects of a page of a List; 0 means the server's default.
func PageSize(objects int32) Option {
	return Option{"PageSize", forList | forWatch, func(s *settings) { s.pageSize = objects }}
}

// Subresource selects the part of the object that is written, such as "status" or "scale". For Update, Patch and Apply.
func Subresource(name string) Option {
	return Option{"Subresource", forUpdate | forPatch | forApply, func(s *settings) { s.subresource = name }}
}

// Manager sets the owner of the written fields, instead of Config.Name. For all writes.
func Manager(name string) Option {
	return Option{"Manager", forWrite, func(s *settings) { s.write.FieldManager = name }}
}

// DryRun does everything except storing the result. For all writes and for Commit.
func DryRun() Option {
	return Option{"DryRun", forWrite | forCommit, func(s *settings) { s.write.DryRun = true }}
}

// Validation sets how unknown fields in JSON are treated: "Strict", "Warn" or "Ignore". For Create, Update, Patch and Apply.
func Validation(mode string) Option {
	return Option{"Validation", forCreate | forUpdate | forPatch | forApply, func(s *settings) { s.write.FieldValidation = mode }}
}

// Force takes over fields from other managers. For Apply.
func Force() Option {
	return Option{"Force", forApply, func(s *settings) { s.force = true }}
}

// Grace sets the grace period of a deletion, in whole seconds. For Delete and DeleteAll.
func Grace(d time.Duration) Option {
	return Option{"Grace", forDelete | forDeleteAll, func(s *settings) {
		seconds := int64(d / time.Second)
		s.delete.GracePeriodSeconds = &seconds
	}}
}

// Propagation sets what happens to dependents: "Orphan", "Background" or "Foreground". For Delete and DeleteAll.
func Propagation(policy string) Option {
	return Option{"Propagation", forDelete | forDeleteAll, func(s *settings) { s.delete.PropagationPolicy = policy }}
}

// OnlyAt deletes the object only if it has this UID and resource version; either may be empty. For Delete.
func OnlyAt(uid, resourceVersion string) Option {
	return Option{"OnlyAt", forDelete, func(s *settings) { s.delete.Uid, s.delete.ResourceVersion = uid, resourceVersion }}
}

const exact = "Exact"

// withName adds a name to a field selector.
func withName(selector, name string) string {
	if name == "" {
		return selector
	}
	return strings.TrimPrefix(selector+",metadata.name="+name, ",")
}
