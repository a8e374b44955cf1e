package turn

import (
	"context"
	"errors"
	"testing"
)

func TestATurnIsTakenOnceAndNoLongerThanAContext(t *testing.T) {
	turn := make(Turn, 1)
	if err := turn.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	why := errors.New("why")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := turn.Take(ended); !errors.Is(err, why) {
		t.Errorf("a turn that is taken: %v", err)
	}
	turn.Leave()
	if err := turn.Take(t.Context()); err != nil {
		t.Errorf("a turn that was left: %v", err)
	}
}
