package rbac

import (
	"context"
	"encoding/json"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// NewAggregation returns the controller that sets the rules of ClusterRoles with an aggregation rule: those of all ClusterRoles that
// it selects.
func NewAggregation(c *client.Client) *controller.Controller {
	// There are few roles, and any of them may be selected by any other.
	all := func(v client.View, enqueue func(controller.Key)) {
		client.Each(v, "", func(role *rbacv1.ClusterRole) bool {
			if role.AggregationRule != nil {
				enqueue(controller.KeyOf(role))
			}
			return true
		})
	}
	return &controller.Controller{
		Name:    "clusterrole-aggregation",
		Watches: []client.Object{&rbacv1.ClusterRole{}},
		Start:   all,
		Enqueue: func(v client.View, _ client.Event, enqueue func(controller.Key)) { all(v, enqueue) },
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			return controller.Result{}, aggregate(ctx, c, v, key.Name)
		},
	}
}

func aggregate(ctx context.Context, c *client.Client, v client.View, name string) error {
	role, ok := client.Get[*rbacv1.ClusterRole](v, "", name)
	if !ok || role.AggregationRule == nil {
		return nil
	}
	rules := []rbacv1.PolicyRule{}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return err
		}
		rules = appendSelected(rules, v, selector, name)
	}
	if apiequality.Semantic.DeepEqual(rules, role.Rules) {
		return nil
	}
	// As upstream, an apply: the controller owns the rules, and nothing else.
	configuration, err := json.Marshal(map[string]any{
		"apiVersion": rbacv1.SchemeGroupVersion.String(), "kind": "ClusterRole", "metadata": map[string]any{"name": name}, "rules": rules})
	if err != nil {
		return err
	}
	_, err = client.Apply(ctx, c, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}}, configuration)
	return err
}

// appendSelected appends the rules of the roles that a selector selects, except for one role, in order of name, each rule once.
func appendSelected(rules []rbacv1.PolicyRule, v client.View, selector labels.Selector, except string) []rbacv1.PolicyRule {
	for _, selected := range client.List[*rbacv1.ClusterRole](v, "", selector) {
		if selected.Name == except {
			continue
		}
		for _, rule := range selected.Rules {
			if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(have, rule) }) {
				rules = append(rules, rule)
			}
		}
	}
	return rules
}
