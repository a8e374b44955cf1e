package objects

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/objects/managed"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/internal/tracing"
)

// MaxObjectBytes limits one encoded object (etcd's default request limit, which users of Kubernetes know).
const MaxObjectBytes = 1536 * 1024

// Store is the part of the replicated store's interface that the service uses.
type Store interface {
	kv.Reader
	// Propose commits a command and returns once the local replica has applied it. A failed precondition is a Result,
	// not an error.
	Propose(ctx context.Context, command *kv.Command) (kv.Result, error)
	// Consistent returns a local view that contains every write acknowledged before the call, on any master.
	Consistent(ctx context.Context) (kv.View, error)
}

// Allocator adds to a write the operations on what the object allocates, and sets the allocated values in the object. It is called
// again if the command met a conflict.
type Allocator interface {
	// Allocate gets the versioned object about to be stored (nil for a deletion) and the stored one (nil for a creation). The
	// operations that it returns become part of the same command.
	Allocate(view kv.View, obj, old registry.Object, dryRun bool) ([]kv.Op, error)
}

// Filler is an Allocator that chooses values which validation requires, before validation. Allocate allocates what it chose.
type Filler interface {
	// Fill gets the versioned object, defaulted and prepared but not validated, and the stored one (nil for a creation).
	Fill(view kv.View, obj, old registry.Object) error
}

// Config has what a Service is made of.
type Config struct {
	Store   Store
	Catalog *registry.Catalog
	Sealer  Sealer
	// Admission is the table of admission steps, in their order.
	Admission  []Step
	Allocators map[schema.GroupResource]Allocator
	// Creators answer creations of resources that are not stored.
	Creators map[schema.GroupResource]Creator
	// Computers return the objects of resources that are computed.
	Computers map[schema.GroupResource]Computer
	// Authorizer decides what depends on the stored objects, such as whether an update that creates may create. Fronts authorize
	// everything else.
	Authorizer auth.Authorizer
	// Rules finds the rules that apply to a user, so that nobody grants more than they have.
	Rules validation.AuthorizationRuleResolver
	// Metrics counts what admission does; nil counts nothing.
	Metrics *measure.API
	// Tracer begins the traces of pods that components of this process create; nil begins none.
	Tracer *tracing.Tracer
	// Timeline keeps how long it took to admit and to store new pods; nil keeps nothing.
	Timeline *timeline.Recorder
	// Now and NewUID default to the wall clock and random UUIDs. Both are called before a command is proposed.
	Now    func() time.Time
	NewUID func() types.UID
}

// Service implements reads and writes of objects. It is safe for concurrent use.
type Service struct {
	store      Store
	catalog    *registry.Catalog
	sealer     Sealer
	admission  []Step
	allocators map[schema.GroupResource]Allocator
	creators   map[schema.GroupResource]Creator
	computers  map[schema.GroupResource]Computer
	authorizer auth.Authorizer
	rules      validation.AuthorizationRuleResolver
	now        func() time.Time
	newUID     func() types.UID
	managed    *managed.Fields
	metrics    *measure.API
	tracer     *tracing.Tracer
	timeline   *timeline.Recorder
}

// New creates a Service.
func New(c Config) (*Service, error) {
	boundCopies()
	s := &Service{
		store: c.Store, catalog: c.Catalog, sealer: c.Sealer, admission: c.Admission, allocators: c.Allocators, creators: c.Creators, computers: c.Computers,
		authorizer: c.Authorizer, rules: c.Rules, now: c.Now, newUID: c.NewUID, metrics: c.Metrics, tracer: c.Tracer, timeline: c.Timeline,
	}
	if s.authorizer == nil || s.rules == nil {
		return nil, errors.New("objects: there are no Authorizer and Rules")
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.newUID == nil {
		s.newUID = func() types.UID { return types.UID(uuid.NewString()) }
	}
	s.managed = managed.New()
	for _, kind := range c.Catalog.Table().Kinds() {
		if kind.Sealed && s.sealer == nil {
			return nil, fmt.Errorf("kind %s is encrypted but there is no Sealer", kind.Kind)
		}
	}
	return s, nil
}

// Kinds returns the present table of kinds. A request uses one table from beginning to end.
func (s *Service) Kinds() *registry.Table { return s.catalog.Table() }

// Catalog returns the catalog that the service was created with.
func (s *Service) Catalog() *registry.Catalog { return s.catalog }

// Store returns the store that the service was created with.
func (s *Service) Store() Store { return s.store }

func (s *Service) timestamp() metav1.Time { return metav1.NewTime(s.now().Truncate(time.Second)) }

// errRetry means that the state has changed since a write was prepared: prepare it again.
var errRetry = errors.New("objects: the state has changed, prepare again")

// ErrPrepareAgain is what an admission step returns to have a write prepared again on a newer view.
var ErrPrepareAgain = errRetry

// propose commits the operations.
func (s *Service) propose(ctx context.Context, r *Request, ops []kv.Op) (kv.Result, error) {
	result, err := s.store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
	if err != nil {
		return kv.Result{}, storeError(r, err)
	}
	return result, nil
}

// storeError converts the store's errors to API errors.
func storeError(r *Request, err error) error {
	switch {
	case errors.Is(err, kv.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case errors.Is(err, kv.ErrDiskFull):
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: metav1.StatusReasonServiceUnavailable,
			Message: fmt.Sprintf("the cluster is read-only, nothing was changed: %v", err),
		}}
	case errors.Is(err, kv.ErrUnsupported):
		return apierrors.NewServiceUnavailable(fmt.Sprintf("nothing was changed: %v", err))
	case errors.Is(err, errFenced):
		refused := apierrors.NewServiceUnavailable(err.Error() + ", nothing was changed")
		refused.ErrStatus.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: Fenced, Message: err.Error()}}}
		return refused
	case errors.Is(err, kv.ErrNoLeader):
		return apierrors.NewServiceUnavailable("the cluster has no leader at the moment, nothing was changed; try again")
	case errors.Is(err, kv.ErrOutcomeUnknown), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		// No Retry-After: clients would retry by themselves, and an object with a generated name would be created twice.
		return apierrors.NewTimeoutError("the outcome of the request is unknown: the leader was lost before it answered; read the object before you try again", 0)
	}
	return apierrors.NewInternalError(err)
}

// outcomeUnknown says whether a write may have been committed although it failed. It must not be made again: it could take effect twice.
func outcomeUnknown(err error) bool { return apierrors.IsTimeout(err) }

// readView returns a consistent view, or an API error.
func (s *Service) readView(ctx context.Context) (kv.View, error) {
	view, err := s.store.Consistent(ctx)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("a consistent read is not possible at the moment: %v", err))
	}
	return view, nil
}

func notFound(r *Request) error {
	return apierrors.NewNotFound(r.Kind.GroupResource(), r.Name)
}

const conflictMessage = "the object has been modified; please apply your changes to the latest version and try again"

func conflict(r *Request) error {
	return apierrors.NewConflict(r.Kind.GroupResource(), r.Name, errors.New(conflictMessage))
}

// Get returns the stored version of an object. With resourceVersion "0" it reads the local replica as it is; with "" it reads
// linearizably; with any other it waits until the local replica has reached it.
func (s *Service) Get(ctx context.Context, r *Request, resourceVersion string) (*kv.Version, error) {
	if err := r.serves("get"); err != nil {
		return nil, err
	}
	view, err := s.viewFor(ctx, resourceVersion)
	if err != nil {
		return nil, err
	}
	if view, err = s.compute(ctx, r, nil, view); err != nil {
		return nil, err
	}
	v, ok := view.Get(r.Kind.Key(r.Namespace, r.Name))
	if !ok {
		return nil, notFound(r)
	}
	return v, nil
}

func (s *Service) viewFor(ctx context.Context, resourceVersion string) (kv.View, error) {
	if resourceVersion == "" {
		return s.readView(ctx)
	}
	revision, err := ParseRevision(resourceVersion)
	if err != nil {
		return nil, InField("resourceVersion", apierrors.NewBadRequest(err.Error()))
	}
	view := s.store.View()
	if revision > view.Revision() {
		// Maybe only this replica is behind.
		if view, err = s.readView(ctx); err != nil {
			return nil, err
		}
		if revision > view.Revision() {
			return nil, tooLargeRevision(revision, view.Revision())
		}
	}
	return view, nil
}

// tooLargeRevision returns upstream's storage.NewTooLargeResourceVersionError, which clients recognize by its cause.
func tooLargeRevision(asked, current uint64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return InField("resourceVersion", err)
}
