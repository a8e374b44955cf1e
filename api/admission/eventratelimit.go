package admission

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"golang.org/x/time/rate"
	"k8s.io/utils/lru"

	"github.com/kontiki/kontiki/api/objects"
)

// eventLimit limits the rate of events, as upstream's configuration (eventratelimit.admission.k8s.io/v1alpha1) describes it.
type eventLimit struct {
	// Type says what has a limit of its own: Server, Namespace, User or SourceAndObject.
	Type      string `json:"type"`
	QPS       int32  `json:"qps"`
	Burst     int32  `json:"burst"`
	CacheSize int32  `json:"cacheSize,omitempty"`
}

// defaultCacheSize is how many namespaces, users or objects have limits at a time.
const defaultCacheSize = 4096

// eventKeys returns, for each type of limit, what the limit of a request is for.
var eventKeys = map[string]func(a *objects.Attributes) string{
	"Server":    func(*objects.Attributes) string { return "" },
	"Namespace": func(a *objects.Attributes) string { return a.Namespace },
	"User":      func(a *objects.Attributes) string { return a.User.GetName() },
	"SourceAndObject": func(a *objects.Attributes) string {
		about := func(component, host string, o corev1.ObjectReference) string {
			return strings.Join([]string{component, host, o.Kind, o.Namespace, o.Name, string(o.UID), o.APIVersion}, "")
		}
		switch event := a.Object.(type) {
		case *corev1.Event:
			return about(event.Source.Component, event.Source.Host, event.InvolvedObject)
		case *eventsv1.Event:
			return about(event.DeprecatedSource.Component, event.DeprecatedSource.Host, event.Regarding)
		}
		return ""
	},
}

func (l *eventLimit) check() error {
	switch {
	case eventKeys[l.Type] == nil:
		return fmt.Errorf("EventRateLimit: type: Unsupported value: %q: supported values: \"Namespace\", \"Server\", \"SourceAndObject\", \"User\"", l.Type)
	case l.QPS <= 0:
		return fmt.Errorf("EventRateLimit: qps: Invalid value: %d: must be positive", l.QPS)
	case l.Burst <= 0:
		return fmt.Errorf("EventRateLimit: burst: Invalid value: %d: must be positive", l.Burst)
	case l.CacheSize < 0:
		return fmt.Errorf("EventRateLimit: cacheSize: Invalid value: %d: must not be negative", l.CacheSize)
	}
	return nil
}

// eventRateLimit refuses events above the configured rates.
func eventRateLimit(limits []eventLimit, now func() time.Time) objects.Step {
	enforcers := make([]*eventEnforcer, len(limits))
	for i, limit := range limits {
		size := int(limit.CacheSize)
		if size == 0 {
			size = defaultCacheSize
		}
		enforcers[i] = &eventEnforcer{eventLimit: limit, limiters: lru.New(size)}
	}
	return objects.Step{
		Name: "EventRateLimit",
		Handles: func(a *objects.Attributes) bool {
			return (a.Is(corev1.Resource("events"), "") || a.Is(eventsv1.Resource("events"), "")) && !a.DryRun &&
				(a.Operation == objects.OpCreate || a.Operation == objects.OpUpdate)
		},
		Validate: func(_ context.Context, a *objects.Attributes) error {
			var errs []error
			for _, e := range enforcers {
				if err := e.accept(eventKeys[e.Type](a), now()); err != nil {
					errs = append(errs, err)
				}
			}
			if err := utilerrors.NewAggregate(errs); err != nil {
				return apierrors.NewTooManyRequestsError(err.Error())
			}
			return nil
		},
		Once: true, // an event counts once, however often its write is prepared
	}
}

// eventEnforcer has the limiters of one limit.
type eventEnforcer struct {
	eventLimit
	mu       sync.Mutex
	limiters *lru.Cache
}

func (e *eventEnforcer) accept(key string, now time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	found, ok := e.limiters.Get(key)
	if !ok {
		found = rate.NewLimiter(rate.Limit(e.QPS), int(e.Burst))
		e.limiters.Add(key, found)
	}
	if !found.(*rate.Limiter).AllowN(now, 1) {
		return fmt.Errorf("limit reached on type %v for key %v", e.Type, key)
	}
	return nil
}
