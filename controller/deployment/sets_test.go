package deployment

import (
	"strings"
	"testing"
)

func TestTheListOfRevisionsIsLimited(t *testing.T) {
	history := ""
	for revision := range int64(2000) {
		history = withRevision(history, revision)
	}
	if len(history) > longestHistory || len(history) < longestHistory-5 || !strings.HasSuffix(history, ",1998,1999") || strings.HasPrefix(history, ",") {
		t.Errorf("%d characters: %s", len(history), history)
	}
	if got := withRevision("", 7); got != "7" {
		t.Error(got)
	}
}
