package rpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Limits for pages of lists, in objects and in bytes, so that they fit into the messages that clients accept.
const (
	defaultPage = 500
	maxPage     = 10000
	pageBytes   = 1 << 20
)

// Get implements kontikiv1.ObjectsServer.
func (s *objectsServer) Get(ctx context.Context, in *kontikiv1.GetRequest) (*kontikiv1.GetResponse, error) {
	o, err := s.on(ctx, in.Reference, "")
	if err != nil {
		return nil, err
	}
	if err := o.authorize("get"); err != nil {
		return nil, err
	}
	if err := o.scoped(true); err != nil {
		return nil, err
	}
	e, err := o.encoder(in.Encoding)
	if err != nil {
		return nil, err
	}
	v, err := s.Objects.Get(ctx, o.request, in.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if record := audit.From(ctx); record.WantsResponse() {
		body, err := s.Objects.JSON(o.request.Kind, v)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		record.ResponseJSON(body)
	}
	obj, err := e.version(v)
	return &kontikiv1.GetResponse{Object: obj}, err
}

// selection parses the selectors of a collection, and validates the other options as REST does.
func selection(label, field string, o *internalversion.ListOptions, watches bool) error {
	for name, text := range map[string]string{"label_selector": label, "field_selector": field} {
		if err := checkText(name, text); err != nil {
			return err
		}
	}
	var err error
	if o.LabelSelector, err = labels.Parse(label); err != nil {
		return about("label_selector", apierrors.NewBadRequest(err.Error()))
	}
	if o.FieldSelector, err = fields.ParseSelector(field); err != nil {
		return about("field_selector", apierrors.NewBadRequest(err.Error()))
	}
	o.Watch = watches
	if errs := internalvalidation.ValidateListOptions(o, true); len(errs) > 0 {
		return objects.Invalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	return nil
}

// List implements kontikiv1.ObjectsServer.
func (s *objectsServer) List(in *kontikiv1.ListRequest, stream kontikiv1.Objects_ListServer) error {
	o, err := s.begin(stream.Context(), "", in.Kind, "")
	if err != nil {
		return err
	}
	o.request.Namespace = in.Namespace
	if err := o.authorizeSelected("list", in.FieldSelector, in.LabelSelector); err != nil {
		return err
	}
	if err := o.scoped(false); err != nil {
		return err
	}
	e, err := o.encoder(in.Encoding)
	if err != nil {
		return err
	}
	size := int(in.PageSize)
	switch {
	case size < 0:
		return Wrong("page_size", "must not be negative")
	case size == 0:
		size = defaultPage
	}
	size = min(size, maxPage)
	var raw internalversion.ListOptions
	raw.ResourceVersion, raw.ResourceVersionMatch = in.ResourceVersion, metav1.ResourceVersionMatch(in.ResourceVersionMatch)
	if err := selection(in.LabelSelector, in.FieldSelector, &raw, false); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), s.RequestTimeout)
	defer cancel()
	// The result consists of pointers to stored versions: all pages show one revision, however slowly they are read.
	result, err := s.Objects.List(ctx, o.request, objects.ListOptions{
		Labels: raw.LabelSelector, Fields: raw.FieldSelector, ResourceVersion: raw.ResourceVersion, ResourceVersionMatch: raw.ResourceVersionMatch,
	})
	if err != nil {
		return err
	}
	revision := objects.FormatRevision(result.Revision)
	if record := audit.From(ctx); record.WantsResponse() {
		if err := s.recordList(record, o.request.Kind, result.Items, &metav1.ListMeta{ResourceVersion: revision}); err != nil {
			return err
		}
	}
	for first := true; first || len(result.Items) > 0; first = false {
		page := &kontikiv1.ListResponse{ResourceVersion: revision}
		bytes := 0
		for len(result.Items) > 0 && len(page.Objects) < size {
			obj, err := e.version(result.Items[0])
			if err != nil {
				return err
			}
			if bytes += len(obj.Data) + len(obj.Name) + len(obj.Namespace); bytes > pageBytes && len(page.Objects) > 0 {
				break
			}
			page.Objects = append(page.Objects, obj)
			result.Items = result.Items[1:]
		}
		page.Remaining = int64(len(result.Items))
		if err := stream.Send(page); err != nil {
			return err
		}
	}
	return nil
}

// Watch implements kontikiv1.ObjectsServer.
func (s *objectsServer) Watch(in *kontikiv1.WatchRequest, stream kontikiv1.Objects_WatchServer) error {
	o, err := s.begin(stream.Context(), "", in.Kind, "")
	if err != nil {
		return err
	}
	o.request.Namespace, o.request.Name = in.Namespace, in.Name
	if err := o.authorizeSelected("watch", in.FieldSelector, in.LabelSelector); err != nil {
		return err
	}
	if err := o.scoped(false); err != nil {
		return err
	}
	e, err := o.encoder(in.Encoding)
	if err != nil {
		return err
	}
	raw := internalversion.ListOptions{ResourceVersion: in.ResourceVersion, AllowWatchBookmarks: in.Bookmarks}
	options := objects.WatchOptions{ResourceVersion: in.ResourceVersion, Bookmarks: in.Bookmarks, BookmarkEvery: s.limits.bookmark}
	if in.SendInitialEvents {
		yes := true
		raw.SendInitialEvents, raw.ResourceVersionMatch = &yes, metav1.ResourceVersionMatchNotOlderThan
		// A bookmark marks the end of the initial objects, so bookmarks are always enabled.
		options.SendInitialEvents, options.Bookmarks, raw.AllowWatchBookmarks = &yes, true, true
	}
	if err := selection(in.LabelSelector, in.FieldSelector, &raw, true); err != nil {
		return err
	}
	options.Labels, options.Fields = raw.LabelSelector, raw.FieldSelector
	if in.Name != "" {
		options.Fields = objects.NameSelector(options.Fields, in.Name)
		o.request.Name = ""
	}
	// Like REST's, watches have a limited duration, because credentials expire.
	ctx, cancel := context.WithTimeoutCause(stream.Context(), s.limits.watch+rand.N(s.limits.watch), errWatchOver)
	defer cancel()
	w, err := s.Objects.Watch(ctx, o.request, options)
	if err != nil {
		return err
	}
	defer w.Close()
	// The headers tell the client that the watch has begun, even if no event follows for long.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	c := callerOf(stream.Context())
	a := c.attributes(in)
	defer s.Limits.Watching(a.APIGroup, a.Resource, a.Namespace, a.Name)()
	for initial := w.Initial(); ; initial = false {
		if !initial {
			c.seat.Swap(nil).Leave()
		}
		events, err := w.Next(ctx)
		if err != nil {
			if errors.Is(context.Cause(ctx), errWatchOver) {
				return status.Error(codes.Unavailable, errWatchOver.Error())
			}
			if errors.Is(err, objects.ErrKindReplaced) {
				return status.Error(codes.Unavailable, err.Error())
			}
			return err
		}
		for _, event := range events {
			if event.Type == watch.Bookmark && !in.Bookmarks && !event.InitialEnd {
				continue
			}
			message, err := e.event(event)
			if err != nil {
				return err
			}
			if err := stream.Send(message); err != nil {
				return err
			}
		}
	}
}

var errWatchOver = errors.New("the watch has reached its maximum duration; start another at the last resource version that it returned")

var eventTypes = map[watch.EventType]kontikiv1.WatchResponse_Type{
	watch.Added: kontikiv1.WatchResponse_TYPE_ADDED, watch.Modified: kontikiv1.WatchResponse_TYPE_MODIFIED,
	watch.Deleted: kontikiv1.WatchResponse_TYPE_DELETED, watch.Bookmark: kontikiv1.WatchResponse_TYPE_BOOKMARK,
}

func (e *encoder) event(event objects.WatchEvent) (*kontikiv1.WatchResponse, error) {
	message := &kontikiv1.WatchResponse{Type: eventTypes[event.Type], ResourceVersion: objects.FormatRevision(event.Revision), InitialEventsEnd: event.InitialEnd}
	if message.Type == kontikiv1.WatchResponse_TYPE_UNSPECIFIED {
		return nil, apierrors.NewInternalError(fmt.Errorf("a watch event of type %q", event.Type))
	}
	if event.Version == nil {
		return message, nil
	}
	var err error
	message.Object, err = e.version(event.Version)
	return message, err
}
