package consensus

import "testing"

// TestAFullDiskIsReportedToEachLeaderInEachTerm: a leader that has lost leadership, perhaps without a successor, has forgotten the
// reports.
func TestAFullDiskIsReportedToEachLeaderInEachTerm(t *testing.T) {
	full := []string{ConditionDiskFull}
	var r reports
	for i, step := range []struct {
		leader     string
		term       uint64
		conditions []string
		due        bool
	}{
		{"a", 1, full, true},
		{"a", 1, full, false},
		{"a", 2, full, true}, // the same leader, after a time without one
		{"a", 2, full, false},
		{"b", 3, full, true},
		{"b", 3, nil, true},
		{"b", 3, nil, false},
		{"a", 4, nil, false},
		{"a", 4, full, true},
	} {
		due := r.due(step.leader, step.term, step.conditions)
		if due != step.due {
			t.Errorf("step %d, %+v: due is %v", i, step, due)
		}
		if due {
			r.made(step.leader, step.term, step.conditions)
		}
	}
}
