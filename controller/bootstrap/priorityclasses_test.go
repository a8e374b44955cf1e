package bootstrap_test

import (
	"context"
	"testing"

	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/bootstrap"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

func TestTheSystemsPriorityClassesExist(t *testing.T) {
	h := harness.New(t)
	controllertest.Run(t, h.Client, bootstrap.NewPriorityClasses(h.Client))
	for name, value := range map[string]int32{"system-cluster-critical": 2000000000, "system-node-critical": 2000001000} {
		there := func(c *schedulingv1.PriorityClass) bool { return c.Value == value && !c.GlobalDefault }
		first := controllertest.Await(t, h.Client, "", name, "its value", there)
		if err := h.Client.Delete(context.Background(), &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			t.Fatal(err)
		}
		controllertest.Await(t, h.Client, "", name, "it is created again", func(c *schedulingv1.PriorityClass) bool { return there(c) && c.UID != first.UID })
	}
	if _, err := client.Create(context.Background(), h.Client, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "system-other"}, Value: 7}); err == nil {
		t.Error("others may not have a system class's name")
	}
}
