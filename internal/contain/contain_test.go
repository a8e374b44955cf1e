package contain_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/internal/contain"
)

func fill(m map[string]int) { m["x"] = 1 }

func TestAPanicBecomesAnError(t *testing.T) {
	err := contain.Run(func() error {
		fill(nil)
		return nil
	})
	var p *contain.Panic
	if !errors.As(err, &p) || !strings.Contains(p.Error(), "nil map") || strings.Contains(p.Error(), "goroutine") {
		t.Fatalf("the error is %v", err)
	}
	wrapped := fmt.Errorf("report: %w", err)
	if stack := contain.Stack(wrapped); !strings.Contains(stack, "TestAPanicBecomesAnError") {
		t.Errorf("the stack does not show where it happened:\n%s", stack)
	}
	if rt := runtime.Error(nil); !errors.As(wrapped, &rt) {
		t.Error("the runtime's error is lost")
	}
}

func TestOtherErrorsPass(t *testing.T) {
	want := errors.New("x")
	if got := contain.Run(func() error { return want }); got != want || contain.Stack(got) != "" {
		t.Errorf("got %v, stack %q", got, contain.Stack(got))
	}
	if err := contain.Run(func() error { return nil }); err != nil {
		t.Error(err)
	}
}
