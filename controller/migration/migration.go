// Package migration carries out StorageVersionMigrations: every object of a resource is written again, so that it is stored in the present
// storage version. What is already stored so stays as it is. It takes the place of upstream's pkg/controller/storageversionmigrator, with
// its conditions, reasons and messages.
//
// A migration has no state but its status: after a restart or a change of leader it begins again from its first object, and what has been
// migrated costs no write.
package migration

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Reasons of conditions, as upstream has them.
const (
	reasonRunning   = "MigrationRunning"
	reasonCompleted = "MigrationCompleted"
	reasonSucceeded = "StorageVersionMigrationSucceeded"
	reasonFailed    = "StorageVersionMigrationFailed"
)

const (
	// objectsPerSecond limits how fast all migrations together process objects, so that other writes do not wait behind them.
	objectsPerSecond = 500
	// unknownLimit is how long a migration waits for a resource that is not served yet.
	unknownLimit = time.Minute
	// progressEvery is how often the progress of a long migration is shown.
	progressEvery = 10 * time.Second
)

// verbs are those that a resource must have.
var verbs = []string{"update", "patch", "list"}

type migrator struct {
	c     *client.Client
	limit *rate.Limiter
	now   func() time.Time
}

// New returns the controller.
func New(c *client.Client) *controller.Controller { return newController(c, time.Now) }

func newController(c *client.Client, now func() time.Time) *controller.Controller {
	m := &migrator{c: c, limit: rate.NewLimiter(objectsPerSecond, objectsPerSecond/10), now: now}
	return &controller.Controller{
		Name: "storage-version-migrator", Watches: []client.Object{&storagemigrationv1.StorageVersionMigration{}}, Workers: 2,
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(s *storagemigrationv1.StorageVersionMigration) bool {
				enqueue(keyOf(s))
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			enqueue(keyOf(event.Object().(*storagemigrationv1.StorageVersionMigration)))
		},
		Reconcile: m.reconcile,
	}
}

// keyOf returns the key of the resource that a migration is of: the migrations of one resource run one after the other.
func keyOf(s *storagemigrationv1.StorageVersionMigration) controller.Key {
	return controller.Key{Namespace: s.Spec.Resource.Group, Name: s.Spec.Resource.Resource}
}

func condition(s *storagemigrationv1.StorageVersionMigration, of storagemigrationv1.MigrationConditionType) bool {
	return apimeta.IsStatusConditionTrue(s.Status.Conditions, string(of))
}

func ended(s *storagemigrationv1.StorageVersionMigration) bool {
	return condition(s, storagemigrationv1.MigrationSucceeded) || condition(s, storagemigrationv1.MigrationFailed)
}

func running(s *storagemigrationv1.StorageVersionMigration) bool {
	return condition(s, storagemigrationv1.MigrationRunning)
}

// reconcile takes the next step of the migrations of one resource.
func (m *migrator) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	var open []*storagemigrationv1.StorageVersionMigration
	var done []*storagemigrationv1.StorageVersionMigration
	client.Each(v, "", func(s *storagemigrationv1.StorageVersionMigration) bool {
		switch {
		case keyOf(s) != key || s.DeletionTimestamp != nil:
		case ended(s) && running(s):
			done = append(done, s)
		case !ended(s):
			open = append(open, s)
		}
		return true
	})
	for _, s := range done {
		if err := m.end(ctx, s); err != nil {
			return controller.Result{}, err
		}
		if err := m.set(ctx, s, storagemigrationv1.MigrationRunning, metav1.ConditionFalse, reasonCompleted, "Migration completed"); err != nil {
			return controller.Result{}, err
		}
	}
	if len(open) == 0 {
		return controller.Result{}, nil
	}
	next := slices.MinFunc(open, func(a, b *storagemigrationv1.StorageVersionMigration) int {
		if ra, rb := running(a), running(b); ra != rb {
			return map[bool]int{true: -1, false: 1}[ra]
		}
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	return m.step(ctx, v, next)
}

func (m *migrator) step(ctx context.Context, v client.View, s *storagemigrationv1.StorageVersionMigration) (controller.Result, error) {
	if !running(s) {
		if err := m.begin(ctx, s); err != nil {
			return controller.Result{}, err
		}
		return controller.Result{}, m.set(ctx, s, storagemigrationv1.MigrationRunning, metav1.ConditionTrue, reasonRunning, "The migration is running")
	}
	kind := m.kind(s.Spec.Resource)
	switch {
	case kind == nil && m.now().Before(s.CreationTimestamp.Add(unknownLimit)):
		return controller.Result{After: time.Second}, nil
	case kind == nil:
		return controller.Result{}, m.fail(ctx, s, "resource does not exist in discovery")
	}
	if missing := slices.ContainsFunc(verbs, func(verb string) bool { return !kind.Serves(verb) }); missing {
		return controller.Result{}, m.fail(ctx, s, fmt.Sprintf("resource %q does not support discovery operations: %v", kind.GroupVersion().WithResource(kind.Resource).String(), verbs))
	}
	if s.Status.ResourceVersion == "" {
		changed := s.DeepCopy()
		changed.Status.ResourceVersion = fmt.Sprint(v.Revision())
		_, err := client.UpdateStatus(ctx, m.c, changed)
		return controller.Result{}, err
	}
	return controller.Result{}, m.migrate(ctx, v, kind, s)
}

// kind returns the kind as which the objects of a resource are stored, or nil.
func (m *migrator) kind(resource metav1.GroupResource) *client.Kind {
	for _, k := range m.c.Kinds() {
		if k.Group == resource.Group && k.Resource == resource.Resource {
			return k
		}
	}
	return nil
}

type object struct{ namespace, name, revision string }

// migrate writes every object that has not been written since the migration's resourceVersion.
func (m *migrator) migrate(ctx context.Context, v client.View, kind *client.Kind, s *storagemigrationv1.StorageVersionMigration) error {
	checkpoint, err := parse(s.Status.ResourceVersion)
	if err != nil {
		return m.fail(ctx, s, "migration encountered unhandled error: "+err.Error())
	}
	total := 0
	var todo []object
	if err := v.EachMeta(kind, "", func(o *client.Metadata) bool {
		total++
		if at, err := parse(o.ResourceVersion); err != nil || at <= checkpoint {
			todo = append(todo, object{o.Namespace, o.Name, o.ResourceVersion})
		}
		return true
	}); err != nil {
		return m.fail(ctx, s, "migration encountered unhandled error: "+err.Error())
	}
	shown := m.now()
	for i, o := range todo {
		if err := m.limit.Wait(ctx); err != nil {
			return err
		}
		err := m.c.PatchRef(ctx, kind, o.namespace, o.name, fmt.Appendf(nil, `{"metadata":{"resourceVersion":%q}}`, o.revision))
		left := len(todo) - i
		switch {
		case err == nil, apierrors.IsConflict(err), apierrors.IsNotFound(err): // whoever was faster has stored it anew, or deleted it
		case ctx.Err() != nil:
			return err
		case transient(err):
			if shown := m.set(ctx, s, storagemigrationv1.MigrationRunning, metav1.ConditionTrue, reasonRunning, runningMessage(left, total, err)); shown != nil {
				return shown
			}
			return err
		default:
			return m.fail(ctx, s, fmt.Sprintf("%d/%d not yet migrated. migration encountered unhandled error: %s", left, total, err))
		}
		if m.now().Sub(shown) > progressEvery {
			shown = m.now()
			if err := m.set(ctx, s, storagemigrationv1.MigrationRunning, metav1.ConditionTrue, reasonRunning, runningMessage(left-1, total, nil)); err != nil {
				return err
			}
			present, ok := client.Get[*storagemigrationv1.StorageVersionMigration](m.c.View(), "", s.Name)
			if !ok || present.UID != s.UID {
				return nil // it was deleted
			}
			s = present
		}
	}
	changed := s.DeepCopy()
	setCondition(changed, storagemigrationv1.MigrationRunning, metav1.ConditionTrue, reasonRunning, runningMessage(0, total, nil), m.now())
	setCondition(changed, storagemigrationv1.MigrationSucceeded, metav1.ConditionTrue, reasonSucceeded, "Migration completed", m.now())
	_, err = client.UpdateStatus(ctx, m.c, changed)
	return err
}

func parse(resourceVersion string) (revision uint64, err error) {
	if _, err := fmt.Sscanf(resourceVersion+"|", "%d|", &revision); err != nil {
		return 0, fmt.Errorf("resource version is not well formed: %s", resourceVersion)
	}
	return revision, nil
}

// transient says whether a write may succeed later.
func transient(err error) bool {
	return apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) || apierrors.IsTimeout(err)
}

func runningMessage(left, total int, err error) string {
	message := "The migration is running"
	switch {
	case total > 0 && left > 0:
		message += fmt.Sprintf(", %d/%d objects not yet migrated", left, total)
	case total > 0:
		message += fmt.Sprintf(", %d objects verified migrated", total)
	}
	if err != nil {
		message += fmt.Sprintf("; transient error: %s", err)
	}
	return message
}

func setCondition(s *storagemigrationv1.StorageVersionMigration, of storagemigrationv1.MigrationConditionType, status metav1.ConditionStatus, reason, message string, now time.Time) bool {
	return apimeta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
		Type: string(of), Status: status, Reason: reason, Message: message, ObservedGeneration: s.Generation, LastTransitionTime: metav1.NewTime(now),
	})
}

// set stores a condition.
func (m *migrator) set(ctx context.Context, s *storagemigrationv1.StorageVersionMigration, of storagemigrationv1.MigrationConditionType, status metav1.ConditionStatus, reason, message string) error {
	changed := s.DeepCopy()
	if !setCondition(changed, of, status, reason, message, m.now()) {
		return nil
	}
	_, err := client.UpdateStatus(ctx, m.c, changed)
	return err
}

func (m *migrator) fail(ctx context.Context, s *storagemigrationv1.StorageVersionMigration, message string) error {
	return m.set(ctx, s, storagemigrationv1.MigrationFailed, metav1.ConditionTrue, reasonFailed, message)
}
