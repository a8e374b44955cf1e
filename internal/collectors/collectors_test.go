package collectors

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/test/gathered"
)

func TestAGroupIsAllOfItsCollectors(t *testing.T) {
	one := prometheus.NewCounter(prometheus.CounterOpts{Name: "one_total"})
	two := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "two"}, []string{"b", "a"})
	one.Add(3)
	two.WithLabelValues("y", "x").Set(4)
	values := gathered.Values(t, Group{one, Group{two}})
	if len(values) != 2 || values["one_total{}"] != 3 || values[`two{a="x",b="y"}`] != 4 {
		t.Errorf("%v", values)
	}
}
