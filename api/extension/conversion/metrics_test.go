package conversion

import (
	"fmt"
	"testing"

	"github.com/kontiki/kontiki/test/gathered"
)

// TestManyDefinitionsAreCountedTogether: the series of metrics are bounded when definitions come and go.
func TestManyDefinitionsAreCountedTogether(t *testing.T) {
	m := NewMetrics()
	for i := range maxDefinitions + 5 {
		m.called(fmt.Sprint(i), "g/v1", "g/v2", 0, nil)
	}
	counted := gathered.Values(t, m)
	if got := counted[`apiserver_crd_conversion_webhook_duration_seconds{crd_name="",from_version="v1",succeeded="true",to_version="v2"}`]; got != 5 {
		t.Errorf("%v further definitions, want 5", got)
	}
	if len(counted) != maxDefinitions+3 {
		t.Errorf("%d series", len(counted))
	}
}
