package flowcontrol_test

import (
	"fmt"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/flowcontrol"
	"github.com/kontiki/kontiki/test/harness"
)

var kinds = []client.Object{&flowcontrolv1.FlowSchema{}, &flowcontrolv1.PriorityLevelConfiguration{}}

func run(t *testing.T) *harness.Harness {
	t.Helper()
	h := harness.New(t)
	controllertest.Run(t, h.Client, flowcontrol.New(client.New(h.Objects, "system:apiserver", flowcontrol.Producer), client.New(h.Objects, "system:apiserver", flowcontrol.Consumer)))
	await(t, h, func(v client.View) string {
		levels, schemas := client.List[*flowcontrolv1.PriorityLevelConfiguration](v, "", nil), client.List[*flowcontrolv1.FlowSchema](v, "", nil)
		if len(levels) != 8 || len(schemas) != len(bootstrap.MandatoryFlowSchemas)+len(bootstrap.SuggestedFlowSchemas) {
			return fmt.Sprintf("%d levels, %d schemas", len(levels), len(schemas))
		}
		for _, s := range schemas {
			if missing := condition(s, flowcontrolv1.ConditionFalse, "Found"); missing != "" {
				return missing
			}
		}
		return ""
	})
	return h
}

func await(t *testing.T, h *harness.Harness, holds func(client.View) string) {
	t.Helper()
	controllertest.AwaitView(t, h.Client, kinds, holds)
}

func condition(s *flowcontrolv1.FlowSchema, status flowcontrolv1.ConditionStatus, reason string) string {
	for _, c := range s.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling && c.Status == status && c.Reason == reason && !c.LastTransitionTime.IsZero() {
			return ""
		}
	}
	return fmt.Sprintf("%s has the conditions %+v", s.Name, s.Status.Conditions)
}

func level(t *testing.T, h *harness.Harness, name string) *flowcontrolv1.PriorityLevelConfiguration {
	t.Helper()
	l, ok := client.Get[*flowcontrolv1.PriorityLevelConfiguration](h.Client.View(), "", name)
	if !ok {
		t.Fatalf("no level %s", name)
	}
	return l.DeepCopy()
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// TestChangedObjectsAreRestored unless they are suggestions that their user wants to keep.
func TestChangedObjectsAreRestored(t *testing.T) {
	h := run(t)
	ctx := t.Context()
	shares := func(name string) int32 { return *level(t, h, name).Spec.Limited.NominalConcurrencyShares }
	if got := level(t, h, "workload-low").Annotations[flowcontrolv1.AutoUpdateAnnotationKey]; got != "true" {
		t.Errorf("the annotation is %q", got)
	}
	kept, restored := level(t, h, "workload-low"), level(t, h, "workload-high")
	want := shares("workload-high")
	kept.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "false"
	for _, l := range []*flowcontrolv1.PriorityLevelConfiguration{kept, restored} {
		*l.Spec.Limited.NominalConcurrencyShares = 77
		must[*flowcontrolv1.PriorityLevelConfiguration](t)(client.Update(ctx, h.Client, l))
	}
	schema, _ := client.Get[*flowcontrolv1.FlowSchema](h.Client.View(), "", "exempt")
	if err := h.Client.Delete(ctx, schema); err != nil {
		t.Fatal(err)
	}
	await(t, h, func(v client.View) string {
		if got := shares("workload-high"); got != want {
			return fmt.Sprintf("workload-high has %d shares", got)
		}
		again, ok := client.Get[*flowcontrolv1.FlowSchema](v, "", "exempt")
		if !ok || again.UID == schema.UID {
			return "the schema exempt is missing"
		}
		return condition(again, flowcontrolv1.ConditionFalse, "Found")
	})
	if got := shares("workload-low"); got != 77 {
		t.Errorf("workload-low has %d shares", got)
	}
}

// TestFormerSuggestionsAreRemoved if they were updated automatically.
func TestFormerSuggestionsAreRemoved(t *testing.T) {
	h := run(t)
	for name, auto := range map[string]string{"former": "true", "kept": "false", "own": ""} {
		l := level(t, h, "workload-low")
		l.ObjectMeta = metav1.ObjectMeta{Name: name}
		if auto != "" {
			l.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: auto}
		}
		must[*flowcontrolv1.PriorityLevelConfiguration](t)(client.Create(t.Context(), h.Client, l))
	}
	await(t, h, func(v client.View) string {
		if _, ok := client.Get[*flowcontrolv1.PriorityLevelConfiguration](v, "", "former"); ok {
			return "it is still there"
		}
		return ""
	})
	level(t, h, "kept")
	level(t, h, "own")
}

func TestDanglingSchemasSaySo(t *testing.T) {
	h := run(t)
	ctx := t.Context()
	schema := bootstrap.SuggestedFlowSchemaServiceAccounts.DeepCopy()
	schema.ObjectMeta = metav1.ObjectMeta{Name: "mine"}
	schema.Spec.PriorityLevelConfiguration.Name = "missing"
	must[*flowcontrolv1.FlowSchema](t)(client.Create(ctx, h.Client, schema))
	has := func(status flowcontrolv1.ConditionStatus, reason string) {
		t.Helper()
		await(t, h, func(v client.View) string {
			s, ok := client.Get[*flowcontrolv1.FlowSchema](v, "", "mine")
			if !ok {
				return "there is no schema"
			}
			return condition(s, status, reason)
		})
	}
	has(flowcontrolv1.ConditionTrue, "NotFound")
	l := level(t, h, "workload-low")
	l.ObjectMeta = metav1.ObjectMeta{Name: "missing"}
	must[*flowcontrolv1.PriorityLevelConfiguration](t)(client.Create(ctx, h.Client, l))
	has(flowcontrolv1.ConditionFalse, "Found")
	if err := h.Client.Delete(ctx, level(t, h, "missing")); err != nil {
		t.Fatal(err)
	}
	has(flowcontrolv1.ConditionTrue, "NotFound")
}
