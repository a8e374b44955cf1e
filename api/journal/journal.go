package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"reflect"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
)

// Defaults of Config.
const (
	DefaultBytes = 64 << 20
	DefaultAge   = 7 * 24 * time.Hour
	// DefaultPerSecond and DefaultBurst are of Config.
	DefaultPerSecond, DefaultBurst = 200, 4000
	// RepeatWithin is how long a change of the status of an object is not recorded again, if the same manager changes the same fields.
	RepeatWithin = 10 * time.Minute
)

const (
	costBytes = 16 << 10
	// gather is how long changes are gathered before they are read, so that a busy store wakes the journal a few times a second.
	gather = 250 * time.Millisecond
	// again is the pause after an error.
	again = 5 * time.Second
	// maxRemembered is how many objects' last changes of status are remembered.
	maxRemembered = 8192
)

// Config has what a Journal is made of.
type Config struct {
	// Dir is its folder, which no one else may use.
	Dir string
	// Bytes limits all files together, to within a file; Age is for how long they are kept.
	Bytes int64
	Age   time.Duration
	// PerSecond and Burst limit what is recorded, and with it what the journal costs: a change costs one, and another one for each 16 KiB of
	// its object. 0 means DefaultPerSecond and DefaultBurst.
	PerSecond, Burst int
	Log              *slog.Logger
}

// Journal is one master's journal. It is safe for concurrent use.
type Journal struct {
	disk    *disk
	age     time.Duration
	log     *slog.Logger
	limit   *rate.Limiter
	reading chan struct{}

	// last is the revision up to which everything has been recorded, or was left out for a reason that has been recorded.
	last atomic.Uint64

	// What follows is used by Run alone.
	lastTime time.Time
	lost     int       // changes that came too fast, since the last entry that says so
	lostFrom time.Time // when the first of them came
	remember map[types.UID]remembered
}

type remembered struct {
	what string
	at   time.Time
}

// Open opens the journal in a folder, and finds where it ends.
func Open(c Config) (*Journal, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.PerSecond == 0 {
		c.PerSecond = DefaultPerSecond
	}
	if c.Burst == 0 {
		c.Burst = DefaultBurst
	}
	d, err := openDisk(c.Dir, c.Bytes, c.Age)
	if err != nil {
		return nil, err
	}
	j := &Journal{disk: d, age: c.Age, log: c.Log, limit: rate.NewLimiter(rate.Limit(c.PerSecond), c.Burst), reading: make(chan struct{}, 2), remember: map[types.UID]remembered{}}
	err = d.newestFirst(func(line []byte) bool {
		var e Entry
		if json.Unmarshal(line, &e) != nil || e.Revision == 0 {
			return true
		}
		j.last.Store(e.Revision)
		j.lastTime = e.Time
		return false
	})
	return j, err
}

// Run records the changes of the store until the context ends. Errors are logged, and what could not be written is said to be missing.
func (j *Journal) Run(ctx context.Context, from *objects.Service) error {
	for ctx.Err() == nil {
		if err := j.follow(ctx, from); err != nil && ctx.Err() == nil {
			j.log.Warn("the journal of changes is interrupted", "error", err)
			pause.For(ctx, again)
		}
	}
	return errors.Join(ctx.Err(), j.disk.close())
}

// follow records changes until the context ends or there is an error.
func (j *Journal) follow(ctx context.Context, from *objects.Service) error {
	last := j.last.Load()
	// A master that has just started has not replayed its log yet. What it replays before the last revision is skipped below.
	now := from.Store().View().Revision()
	w, err := from.Store().Watch("/", min(now, last))
	if errors.Is(err, kv.ErrCompacted) {
		if err := j.skip(last, now); err != nil {
			return err
		}
		w, err = from.Store().Watch("/", now)
	}
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		events, progress, err := w.Next(ctx)
		if errors.Is(err, kv.ErrCompacted) { // the next turn says what is missing
			j.last.Store(max(j.last.Load(), progress))
			return nil
		}
		if err != nil {
			return err
		}
		if err := j.record(from, events, progress); err != nil {
			return err
		}
		pause.For(ctx, gather)
	}
}

// skip records that changes up to a revision are missing.
func (j *Journal) skip(last, now uint64) error {
	at := time.Now().UTC()
	if last > 0 { // otherwise the journal begins here
		since := j.lastTime
		if err := j.disk.append([]Entry{{Revision: now, Time: at, What: Missing, Since: &since}}, at); err != nil {
			return err
		}
	}
	j.last.Store(now)
	j.lastTime = at
	return nil
}

// record writes what is to be kept of events.
func (j *Journal) record(from *objects.Service, events []*kv.Event, progress uint64) error {
	now := time.Now().UTC()
	kinds := byPrefix(from.Kinds())
	deleters := map[types.UID]string{}
	for _, e := range events {
		if e.Type == kv.Put {
			if uid, user, ok := from.DeletedBy(e.Current); ok {
				deleters[uid] = user
			}
		}
	}
	var entries []Entry
	for _, e := range events {
		if e.Revision <= j.last.Load() {
			continue
		}
		kind := kinds[prefixOf(e.Current.Key)]
		if kind == nil || kind.Resource == "leases" && kind.Group == "coordination.k8s.io" {
			continue
		}
		if !j.limit.AllowN(now, min(j.limit.Burst(), 1+len(e.Current.Value)/costBytes)) {
			if j.lost++; j.lost == 1 {
				j.lostFrom = now
			}
			continue
		}
		if j.lost > 0 {
			since := j.lostFrom
			entries = append(entries, Entry{Revision: e.Revision, Time: now, What: Missing, Since: &since, Count: j.lost})
			j.lost = 0
		}
		entry, ok, err := j.entry(from, kind, e, now)
		if err != nil {
			j.log.Debug("a change cannot be recorded in the journal", "key", e.Current.Key, "error", err)
			continue
		}
		if ok {
			if entry.What == Deleted {
				entry.User = cut(deleters[types.UID(entry.UID)], 2*maxReason)
			}
			entries = append(entries, entry)
		}
	}
	if err := j.disk.append(entries, now); err != nil {
		if j.lost == 0 {
			j.lostFrom = now
		}
		j.lost += len(entries)
		j.last.Store(max(j.last.Load(), progress))
		return err
	}
	j.last.Store(max(j.last.Load(), progress))
	j.lastTime = now
	return nil
}

// entry returns what is kept of a change; false if nothing is. An object that makes it panic is left out.
func (j *Journal) entry(from *objects.Service, kind *registry.Kind, e *kv.Event, now time.Time) (entry Entry, ok bool, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			j.log.Error("a change could not be recorded in the journal", "key", e.Current.Key, "panic", cause, "stack", string(debug.Stack()))
			ok, err = false, nil
		}
	}()
	if kind.Group == "" && kind.Resource == "events" {
		return j.happened(from, kind, e, now)
	}
	meta, err := from.Metadata(kind, e.Current)
	if err != nil {
		return entry, false, err
	}
	entry = Entry{
		Revision: e.Revision, Time: now, Group: kind.Group, Resource: kind.Resource, Kind: kind.Kind,
		Namespace: meta.Namespace, Name: meta.Name, UID: string(meta.UID),
	}
	switch {
	case e.Type == kv.Deleted:
		entry.What = Deleted
		delete(j.remember, meta.UID)
		return entry, true, nil
	case e.Previous == nil:
		entry.What = Created
		entry.writtenBy(meta.ManagedFields, nil)
		if created := meta.CreationTimestamp; !created.IsZero() {
			entry.Time = created.UTC()
		}
		return entry, true, nil
	}
	entry.What = Changed
	before, err := from.Metadata(kind, e.Previous)
	if err != nil {
		return entry, false, err
	}
	entry.writtenBy(meta.ManagedFields, before.ManagedFields)
	if batch, ok := kind.Codec.(registry.Batch); ok && (batch.Apart(e.Previous.Value, kind.GVK()) || batch.Apart(e.Current.Value, kind.GVK())) {
		return entry, true, nil // to convert it would call a webhook
	}
	was, err := from.Decode(kind, e.Previous)
	if err != nil {
		return entry, false, err
	}
	is, err := from.Decode(kind, e.Current)
	if err != nil {
		return entry, false, err
	}
	if entry.Fields, entry.More, err = changed(was, is); err != nil {
		return entry, false, err
	}
	return entry, len(entry.Fields) > 0 && !j.repeats(&entry, now), nil
}

// changed returns the paths of what differs between two objects of a kind, sorted, and whether there are more than MaxFields.
func changed(was, is registry.Object) (found []string, more bool, err error) {
	before, custom := was.(*unstructured.Unstructured)
	after, both := is.(*unstructured.Unstructured)
	if custom && both {
		found, more = changedPaths(before.Object, after.Object)
		return found, more, nil
	}
	if reflect.TypeOf(was) != reflect.TypeOf(is) {
		return nil, false, fmt.Errorf("an object was a %T and is a %T", was, is)
	}
	return changedFields(was, is)
}

// writtenBy notes the manager that made a write, and the time that it says. before has the entries before the write.
func (e *Entry) writtenBy(now, before []metav1.ManagedFieldsEntry) {
	best := lost
	var newest metav1.Time
	for i := range now {
		m := &now[i]
		signs := signsOf(m, before)
		if signs == none || m.Time == nil || signs < best || signs == best && m.Time.Before(&newest) {
			continue
		}
		best, newest = signs, *m.Time
		e.Manager, e.Subresource = cut(m.Manager, maxReason), cut(m.Subresource, maxReason)
	}
	if !newest.IsZero() {
		e.Time = newest.UTC()
	}
}

// signs say whether a manager made a write: one that loses fields to another did not, and the times have only seconds.
type signs int

const (
	none signs = iota
	lost
	grown
	renewed
)

func signsOf(m *metav1.ManagedFieldsEntry, before []metav1.ManagedFieldsEntry) signs {
	for i := range before {
		b := &before[i]
		if b.Manager != m.Manager || b.Operation != m.Operation || b.Subresource != m.Subresource || b.APIVersion != m.APIVersion {
			continue
		}
		switch was, is := lengthOf(b.FieldsV1), lengthOf(m.FieldsV1); {
		case !b.Time.Equal(m.Time):
			return renewed
		case is > was:
			return grown
		case is < was:
			return lost
		}
		return none
	}
	return renewed
}

func lengthOf(f *metav1.FieldsV1) int {
	if f == nil {
		return 0
	}
	return len(f.GetRawBytes())
}

// repeats says whether a change of the status is like the last one of its object, and was recorded lately.
func (j *Journal) repeats(e *Entry, now time.Time) bool {
	for _, path := range e.Fields {
		if !strings.HasPrefix(path, "status.") {
			return false
		}
	}
	what := e.Manager + "\x00" + strings.Join(e.Fields, "\x00")
	last, known := j.remember[types.UID(e.UID)]
	if known && last.what == what && now.Sub(last.at) < RepeatWithin {
		return true
	}
	if !known && len(j.remember) >= maxRemembered {
		clear(j.remember) // a few repeats are recorded
	}
	j.remember[types.UID(e.UID)] = remembered{what, now}
	return false
}

// happened returns what is kept of an event: it is recorded when it first occurs, and when it has occurred twice, four times, and so on.
func (j *Journal) happened(from *objects.Service, kind *registry.Kind, e *kv.Event, now time.Time) (entry Entry, ok bool, err error) {
	if e.Type == kv.Deleted {
		return entry, false, nil
	}
	obj, err := from.Decode(kind, e.Current)
	if err != nil {
		return entry, false, err
	}
	event, isEvent := obj.(*corev1.Event)
	if !isEvent {
		return entry, false, nil
	}
	count := max(int(event.Count), 1)
	last := event.LastTimestamp.Time
	if event.Series != nil {
		count, last = int(event.Series.Count), event.Series.LastObservedTime.Time
	}
	if e.Previous != nil && (count < 1 || bits.OnesCount(uint(count)) != 1) {
		return entry, false, nil
	}
	if last.IsZero() {
		last = event.EventTime.Time
	}
	if last.IsZero() || last.After(now) {
		last = now
	}
	manager := event.Source.Component
	if manager == "" {
		manager = event.ReportingController
	}
	about := event.InvolvedObject
	return Entry{
		Revision: e.Revision, Time: last.UTC(), What: Happened, Resource: kind.Resource, Kind: kind.Kind, Namespace: event.Namespace, Name: event.Name,
		UID: string(event.UID), Manager: cut(manager, maxReason), Type: cut(event.Type, maxReason), Reason: cut(event.Reason, maxReason), Text: cut(event.Message, maxText), Count: count,
		About: &Object{
			APIVersion: cut(about.APIVersion, maxReason), Kind: cut(about.Kind, maxReason), Namespace: cut(about.Namespace, maxReason),
			Name: cut(about.Name, 2*maxReason), UID: cut(string(about.UID), maxReason),
		},
	}, true, nil
}

// byPrefix returns the kinds of stored objects by the prefix of their keys.
func byPrefix(t *registry.Table) map[string]*registry.Kind {
	by := make(map[string]*registry.Kind, len(t.Stored()))
	for _, k := range t.Stored() {
		if !k.Unserved {
			by[k.Prefix()] = k
		}
	}
	return by
}

// prefixOf returns the part of a key that its resource gives it.
func prefixOf(key string) string {
	slashes := 0
	for i := range len(key) {
		if key[i] == '/' {
			if slashes++; slashes == 3 {
				return key[:i+1]
			}
		}
	}
	return ""
}
