package rbac

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/auth/rbac/reconciliation"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// defaults reconciles the default roles and bindings.
type defaults struct {
	client *client.Client
	log    *slog.Logger
	wanted map[controller.Key]client.Object
}

// NewDefaults returns the controller that maintains the default roles and bindings. Its keys are the objects, with their kinds in
// the names.
func NewDefaults(c *client.Client, log *slog.Logger) *controller.Controller {
	d := &defaults{client: c, log: log, wanted: map[controller.Key]client.Object{}}
	for _, obj := range Defaults() {
		d.wanted[keyOf(obj)] = obj
	}
	return &controller.Controller{
		Name:    "rbac-defaults",
		Watches: []client.Object{&rbacv1.Role{}, &rbacv1.RoleBinding{}, &rbacv1.ClusterRole{}, &rbacv1.ClusterRoleBinding{}, &corev1.Namespace{}},
		Start: func(_ client.View, enqueue func(controller.Key)) {
			for key := range d.wanted {
				enqueue(key)
			}
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if namespace, ok := event.Object().(*corev1.Namespace); ok {
				for key := range d.wanted {
					if event.Old == nil && key.Namespace == namespace.Name {
						enqueue(key)
					}
				}
				return
			}
			if key := keyOf(event.Object()); d.wanted[key] != nil {
				enqueue(key)
			}
		},
		Reconcile: d.reconcile,
		Workers:   16, // so that the writes at the start share raft batches
	}
}

func keyOf(obj client.Object) controller.Key {
	return controller.Key{Namespace: obj.GetNamespace(), Name: fmt.Sprintf("%T/%s", obj, obj.GetName())}
}

func (d *defaults) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	wanted := d.wanted[key]
	if wanted.GetNamespace() != "" {
		if _, ok := client.Get[*corev1.Namespace](v, "", wanted.GetNamespace()); !ok {
			return controller.Result{}, nil // until the namespace is created
		}
	}
	changed, skipped, err := reconcile(ctx, d.client, wanted)
	switch {
	case skipped:
		d.log.Warn("a default role or binding lacks what it should have, and its annotation forbids to add it", "key", key, "annotation", rbacv1.AutoUpdateAnnotationKey)
	case changed != "":
		d.log.Debug("reconciled a default role or binding", "key", key, "operation", changed)
	}
	return controller.Result{}, err
}

// Reconcile brings one default role or binding to what it should be, as upstream does when it starts.
func Reconcile(ctx context.Context, c *client.Client, wanted client.Object) error {
	_, _, err := reconcile(ctx, c, wanted)
	return err
}

// reconcile returns the operation that was carried out, "" for none, or that it was skipped because of the object's annotation.
func reconcile(ctx context.Context, c *client.Client, wanted client.Object) (operation reconciliation.ReconcileOperation, skipped bool, err error) {
	wanted = wanted.DeepCopyObject().(client.Object)
	var owner reconciliation.RuleOwner
	var binding reconciliation.RoleBinding
	switch obj := wanted.(type) {
	case *rbacv1.ClusterRole:
		owner = reconciliation.ClusterRoleRuleOwner{ClusterRole: obj}
	case *rbacv1.Role:
		owner = reconciliation.RoleRuleOwner{Role: obj}
	case *rbacv1.ClusterRoleBinding:
		binding = reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: obj}
	case *rbacv1.RoleBinding:
		binding = reconciliation.RoleBindingAdapter{RoleBinding: obj}
	}
	var protected bool
	if owner != nil {
		options := reconciliation.ReconcileRoleOptions{Role: owner, Client: roles{ctx, c, wanted}, Confirm: true}
		result, err := options.Run()
		if err != nil {
			return "", false, err
		}
		operation, protected = result.Operation, result.Protected
	} else {
		options := reconciliation.ReconcileRoleBindingOptions{RoleBinding: binding, Client: bindings{ctx, c, wanted}, Confirm: true}
		result, err := options.Run()
		if err != nil {
			return "", false, err
		}
		operation, protected = result.Operation, result.Protected
	}
	if operation == reconciliation.ReconcileNone {
		return "", false, nil
	}
	return operation, protected, nil
}

// roles gives upstream's reconciliation access to the roles of like's type.
type roles struct {
	ctx    context.Context
	client *client.Client
	like   client.Object
}

func (r roles) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	obj, ok := r.client.View().GetOf(r.client.KindOf(r.like), namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(r.client.KindOf(r.like).GroupResource(), name)
	}
	return ruleOwner(obj.DeepCopyObject())
}

func (r roles) Create(in reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	return r.write(in, client.Create[*rbacv1.ClusterRole], client.Create[*rbacv1.Role])
}

func (r roles) Update(in reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	return r.write(in, client.Update[*rbacv1.ClusterRole], client.Update[*rbacv1.Role])
}

type write[T client.Object] func(context.Context, *client.Client, T) (T, error)

func (r roles) write(in reconciliation.RuleOwner, ofCluster write[*rbacv1.ClusterRole], ofNamespace write[*rbacv1.Role]) (reconciliation.RuleOwner, error) {
	switch obj := in.GetObject().(type) {
	case *rbacv1.ClusterRole:
		if _, err := ofCluster(r.ctx, r.client, obj.DeepCopy()); err != nil {
			return nil, err
		}
	case *rbacv1.Role:
		if _, err := ofNamespace(r.ctx, r.client, obj.DeepCopy()); err != nil {
			return nil, err
		}
	}
	return in, nil
}

var errNoRole = errors.New("rbac: neither a role nor a binding")

func ruleOwner(obj any) (reconciliation.RuleOwner, error) {
	switch obj := obj.(type) {
	case *rbacv1.ClusterRole:
		return reconciliation.ClusterRoleRuleOwner{ClusterRole: obj}, nil
	case *rbacv1.Role:
		return reconciliation.RoleRuleOwner{Role: obj}, nil
	}
	return nil, errNoRole
}

// bindings gives upstream's reconciliation access to the bindings of like's type.
type bindings struct {
	ctx    context.Context
	client *client.Client
	like   client.Object
}

func (b bindings) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	obj, ok := b.client.View().GetOf(b.client.KindOf(b.like), namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(b.client.KindOf(b.like).GroupResource(), name)
	}
	switch obj := obj.DeepCopyObject().(type) {
	case *rbacv1.ClusterRoleBinding:
		return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: obj}, nil
	case *rbacv1.RoleBinding:
		return reconciliation.RoleBindingAdapter{RoleBinding: obj}, nil
	}
	return nil, errNoRole
}

func (b bindings) Delete(namespace, name string, uid types.UID) error {
	obj, ok := b.client.View().GetOf(b.client.KindOf(b.like), namespace, name)
	if !ok {
		return apierrors.NewNotFound(b.client.KindOf(b.like).GroupResource(), name)
	}
	return b.client.Delete(b.ctx, obj, client.IfUID(uid))
}

func (b bindings) Create(in reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return b.write(in, client.Create[*rbacv1.ClusterRoleBinding], client.Create[*rbacv1.RoleBinding])
}

func (b bindings) Update(in reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return b.write(in, client.Update[*rbacv1.ClusterRoleBinding], client.Update[*rbacv1.RoleBinding])
}

func (b bindings) write(in reconciliation.RoleBinding, ofCluster write[*rbacv1.ClusterRoleBinding], ofNamespace write[*rbacv1.RoleBinding]) (reconciliation.RoleBinding, error) {
	switch obj := in.GetObject().(type) {
	case *rbacv1.ClusterRoleBinding:
		if _, err := ofCluster(b.ctx, b.client, obj.DeepCopy()); err != nil {
			return nil, err
		}
	case *rbacv1.RoleBinding:
		if _, err := ofNamespace(b.ctx, b.client, obj.DeepCopy()); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// Ready returns a check that fails until all default roles and bindings exist, as the client's master sees it. Once they do, it does
// not look again: what is deleted later is created again, and does not make a master unready.
func Ready(c *client.Client) func(context.Context) error {
	var mu sync.Mutex
	missing := Defaults()
	return func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		for v := c.View(); len(missing) > 0; missing = missing[1:] {
			next := missing[0]
			if _, ok := v.GetOf(c.KindOf(next), next.GetNamespace(), next.GetName()); !ok {
				return errors.New("not finished")
			}
		}
		return nil
	}
}
