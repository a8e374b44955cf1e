// Package apply implements `kontiki apply --atomic`: it applies a set of manifests by one transaction, so that a release is applied
// completely or not at all. It can show the differences before, prune objects that are no longer part of the release, wait for its
// roll-out and, if that fails, roll everything back by another transaction.
package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// transactionsPath is the API's path for transactions (docs/transactions.md).
const transactionsPath = "/kontiki/v1/transactions"

// Options say what to apply, and how.
type Options struct {
	// Files are manifests, directories of them, or "-" for In.
	Files []string
	// Namespace is the namespace of objects that name none.
	Namespace string
	// FieldManager owns the applied fields; Force takes over fields of other managers.
	FieldManager string
	Force        bool
	// Prune deletes objects that match Selector and are not in the manifests.
	Prune    bool
	Selector string
	// Diff shows the changes before they are made; DryRun stops after that.
	Diff, DryRun bool
	// Wait waits for roll-outs, at most for Timeout; Rollback rolls everything back if one fails, and waits for another Timeout
	// until pruned objects are gone, since only then they can be created again.
	Wait, Rollback bool
	Timeout        time.Duration

	Config   *rest.Config
	In       io.Reader
	Out, Err io.Writer
}

// check returns an error if options do not fit together.
func (o *Options) check() error {
	switch {
	case len(o.Files) == 0:
		return errors.New("--filename: name a file, a directory, or - for standard input")
	case o.Prune && o.Selector == "":
		return errors.New("--prune requires --selector: it deletes the objects that the selector matches and that are not in the manifests")
	case !o.Prune && o.Selector != "":
		return errors.New("--selector requires --prune: all manifests are applied, whatever their labels")
	case o.Rollback && !o.Wait:
		return errors.New("--rollback-on-failure requires --wait: otherwise a failure is not detected")
	case o.Timeout <= 0:
		return errors.New("--timeout must be positive")
	}
	if _, err := labels.Parse(o.Selector); err != nil {
		return fmt.Errorf("--selector: %w", err)
	}
	return nil
}

// target is one object of the release.
type target struct {
	object  *unstructured.Unstructured
	mapping *meta.RESTMapping
	// before is the object's previous state; nil if it did not exist. after is its state after the transaction; nil if it was
	// deleted.
	before, after *unstructured.Unstructured
	// created means that the transaction created it.
	created   bool
	pruned    bool
	namespace string
}

// String returns the object's name in kubectl's form.
func (t *target) String() string {
	resource := t.mapping.GroupVersionKind.Kind
	if group := t.mapping.Resource.Group; group != "" {
		resource += "." + group
	}
	return strings.ToLower(resource) + "/" + t.object.GetName()
}

// run is the state of one `kontiki apply`.
type run struct {
	Options
	http    *http.Client
	dynamic dynamic.Interface
	mapper  meta.RESTMapper
	targets []*target
}

// Run applies the manifests. If an error has already been explained on Err, it returns ErrFailed.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	r := &run{Options: o}
	if err := r.connect(); err != nil {
		return err
	}
	objects, err := load(o.Files, o.In)
	if err != nil {
		return err
	}
	if err := r.resolve(objects); err != nil {
		return err
	}
	if o.Diff || o.DryRun {
		if err := r.look(ctx); err != nil {
			return err
		}
		if err := r.transact(ctx, true); err != nil {
			return err
		}
		if o.Diff {
			if err := r.showDifference(); err != nil {
				return err
			}
		}
		if o.DryRun {
			return r.report(" (server dry run)")
		}
	}
	if err := r.change(ctx); err != nil {
		return err
	}
	if err := r.report(""); err != nil {
		return err
	}
	if !o.Wait {
		return nil
	}
	failure := r.wait(ctx)
	if failure == nil {
		return nil
	}
	if !o.Rollback {
		return fmt.Errorf("the release was applied, and its roll-out failed: %w", failure)
	}
	fmt.Fprintf(o.Err, "the roll-out failed, rolling the release back: %v\n", failure)
	left, err := r.undo(context.WithoutCancel(ctx)) // even after an interrupt
	if err != nil {
		return fmt.Errorf("the roll-out failed (%w), and the release could not be rolled back: %w", failure, err)
	}
	if len(left) > 0 {
		return fmt.Errorf("the roll-out failed, the release was rolled back except for %s: %w", strings.Join(left, "; "), failure)
	}
	return fmt.Errorf("the roll-out failed, the release was rolled back: %w", failure)
}

func (r *run) connect() (err error) {
	if r.http, err = rest.HTTPClientFor(r.Config); err != nil {
		return err
	}
	if r.dynamic, err = dynamic.NewForConfigAndClient(r.Config, r.http); err != nil {
		return err
	}
	client, err := discovery.NewDiscoveryClientForConfigAndClient(r.Config, r.http)
	if err != nil {
		return err
	}
	groups, err := restmapper.GetAPIGroupResources(client)
	if err != nil {
		return fmt.Errorf("the cluster does not answer: %w", err)
	}
	r.mapper = restmapper.NewDiscoveryRESTMapper(groups)
	return nil
}

// resolve looks up the resources of the manifests' kinds. Namespaces are ordered first, before what they contain.
func (r *run) resolve(objects []*unstructured.Unstructured) error {
	seen := map[string]bool{}
	var rest []*target
	for _, object := range objects {
		gvk := object.GroupVersionKind()
		if err := named(object); err != nil {
			return err
		}
		mapping, err := r.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			return fmt.Errorf("%s %q: %w", gvk.Kind, object.GetName(), err)
		}
		t := &target{object: object, mapping: mapping}
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			if object.GetNamespace() == "" {
				object.SetNamespace(r.Namespace)
			}
		} else {
			object.SetNamespace("")
		}
		t.namespace = object.GetNamespace()
		key := t.namespace + "/" + t.String()
		if seen[key] {
			return fmt.Errorf("%s is in the manifests more than once", t)
		}
		seen[key] = true
		if gvk.Kind == "Namespace" && gvk.Group == "" {
			r.targets = append(r.targets, t)
		} else {
			rest = append(rest, t)
		}
	}
	r.targets = append(r.targets, rest...)
	return nil
}

// named refuses an object without a name, and names that are not strings: in YAML an unquoted 12 is a number.
func named(object *unstructured.Unstructured) error {
	kind := object.GetKind()
	metadata, ok := object.Object["metadata"].(map[string]any)
	if !ok && object.Object["metadata"] != nil {
		return fmt.Errorf("a %s: metadata must be a map", kind)
	}
	for _, field := range []string{"name", "namespace"} {
		if value, given := metadata[field]; given && value != nil {
			if _, ok := value.(string); !ok {
				return fmt.Errorf("a %s: metadata.%s must be a string, but is %v: quote it", kind, field, value)
			}
		}
	}
	switch {
	case object.GetName() != "":
		return nil
	case object.GetGenerateName() != "":
		return fmt.Errorf("a %s has metadata.generateName %q: an applied object must have a metadata.name, otherwise each apply would create another object", kind, object.GetGenerateName())
	}
	return fmt.Errorf("a %s has no metadata.name: an applied object must have one", kind)
}

func (r *run) resource(t *target) dynamic.ResourceInterface {
	if t.mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return r.dynamic.Resource(t.mapping.Resource).Namespace(t.namespace)
	}
	return r.dynamic.Resource(t.mapping.Resource)
}

// look reads the present objects, and determines which are to be pruned.
func (r *run) look(ctx context.Context) error {
	kept := r.targets[:0]
	for _, t := range r.targets {
		if !t.pruned {
			kept = append(kept, t)
		}
	}
	r.targets = kept
	for _, t := range r.targets {
		before, err := r.resource(t).Get(ctx, t.object.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			before, err = nil, nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", t, err)
		}
		t.before = before
	}
	if r.Prune {
		return r.findPruned(ctx)
	}
	return nil
}

// change calls look, and carries out the transaction. If the previous state must be known exactly, for a rollback, it starts again
// when an object changes in between.
func (r *run) change(ctx context.Context) error {
	for {
		if err := r.look(ctx); err != nil {
			return err
		}
		err := r.transact(ctx, false)
		if !apierrors.IsConflict(err) || !r.Rollback || ctx.Err() != nil || fieldConflict(err) || r.outdated() {
			return err
		}
	}
}

// outdated says whether a manifest has a resource version that is no longer current: then starting again does not help.
func (r *run) outdated() bool {
	for _, t := range r.targets {
		if wanted := t.object.GetResourceVersion(); !t.pruned && wanted != "" && t.before != nil && t.before.GetResourceVersion() != wanted {
			return true
		}
	}
	return false
}

// fieldConflict says whether another manager owns an applied field: then starting again does not help.
func fieldConflict(err error) bool {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	for _, cause := range status.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeFieldManagerConflict {
			return true
		}
	}
	return false
}

// operation is an operation of a transaction; see api/rest.
type operation map[string]any

func reference(u *unstructured.Unstructured) map[string]any {
	return map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), "namespace": u.GetNamespace(), "name": u.GetName()}
}

// transact applies everything and prunes, by one transaction.
func (r *run) transact(ctx context.Context, dryRun bool) error {
	var operations []operation
	for _, t := range r.targets {
		if t.pruned {
			deletion := reference(t.before)
			preconditions := map[string]any{"uid": t.before.GetUID()}
			if r.Rollback && !dryRun {
				preconditions["resourceVersion"] = t.before.GetResourceVersion() // so that a rollback restores exactly what is deleted now
			}
			deletion["options"] = map[string]any{"propagationPolicy": "Background", "preconditions": preconditions}
			operations = append(operations, operation{"delete": deletion})
			continue
		}
		applied := t.object.DeepCopy()
		if r.Rollback && t.before != nil && !dryRun && applied.GetResourceVersion() == "" {
			applied.SetResourceVersion(t.before.GetResourceVersion()) // so that a rollback restores exactly what is replaced now
		}
		operations = append(operations, operation{"apply": applied.Object, "force": r.Force})
	}
	results, err := r.post(ctx, operations, dryRun)
	if err != nil {
		return r.explained(err)
	}
	for i, t := range r.targets {
		t.after, t.created = results[i].object, results[i].created
		if t.pruned {
			t.after = nil
		}
	}
	return nil
}

// result is the result of one operation.
type result struct {
	object  *unstructured.Unstructured
	created bool
}

// post sends a transaction and returns its results.
func (r *run) post(ctx context.Context, operations []operation, dryRun bool) ([]result, error) {
	body, err := json.Marshal(map[string]any{"operations": operations, "dryRun": dryRun, "fieldManager": r.FieldManager, "fieldValidation": "Strict"})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(r.Config.Host, "/")+transactionsPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	unknown := func(err error) error {
		if refused := (*net.OpError)(nil); dryRun || errors.As(err, &refused) && refused.Op == "dial" {
			return err // nothing was sent, or nothing would have been changed
		}
		return fmt.Errorf("the outcome is unknown: %w\nNo response arrived. Either everything was applied or nothing; check, or apply again", err)
	}
	response, err := r.http.Do(request)
	if err != nil {
		return nil, unknown(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, unknown(err)
	}
	if response.StatusCode != http.StatusOK {
		var status metav1.Status
		if err := json.Unmarshal(data, &status); err != nil || status.Message == "" {
			return nil, fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(data))
		}
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	var answer struct {
		Results []struct {
			Object  json.RawMessage
			Created bool
		}
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, err
	}
	if len(answer.Results) != len(operations) {
		return nil, fmt.Errorf("the cluster answered %d results for %d operations", len(answer.Results), len(operations))
	}
	results := make([]result, len(answer.Results))
	for i, one := range answer.Results {
		results[i].created = one.Created
		if one.Object == nil {
			continue
		}
		results[i].object = &unstructured.Unstructured{}
		// UnmarshalJSON decodes numbers as in the objects that these are compared with.
		if err := results[i].object.UnmarshalJSON(one.Object); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// explained replaces the operation's number by the object's name.
func (r *run) explained(err error) error {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) || status.Status().Details == nil {
		return err
	}
	for _, cause := range status.Status().Details.Causes {
		var i int
		if n, _ := fmt.Sscanf(cause.Field, "operations[%d]", &i); n == 1 && i < len(r.targets) {
			message := strings.TrimPrefix(status.Status().Message, cause.Field+": ")
			return &failed{fmt.Sprintf("%s: %s\nNothing was changed.", r.targets[i], message), err}
		}
	}
	return err
}

// failed is an error with another text.
type failed struct {
	text string
	err  error
}

func (f *failed) Error() string { return f.text }
func (f *failed) Unwrap() error { return f.err }

// report prints what was done, as kubectl does.
func (r *run) report(suffix string) error {
	for _, t := range r.targets {
		done := "configured"
		switch {
		case t.pruned:
			done = "pruned"
		case t.before == nil:
			done = "created"
		case t.after.GetResourceVersion() == t.before.GetResourceVersion() && suffix == "", suffix != "" && !differs(t):
			done = "unchanged"
		}
		if _, err := fmt.Fprintf(r.Out, "%s %s%s\n", t, done, suffix); err != nil {
			return err
		}
	}
	return nil
}
