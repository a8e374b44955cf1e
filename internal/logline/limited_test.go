package logline

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/time/rate"
)

func TestClientsCannotFillTheLog(t *testing.T) {
	var out bytes.Buffer
	l := NewLimited(slog.New(slog.NewTextHandler(&out, nil)))
	l.limiter = rate.NewLimiter(0, 5) // no further line, however slow the test is
	long := strings.Repeat("é", 1<<19)
	for range 1000 {
		l.Info("refused", "path", "/"+long, "reason", errors.New(long))
	}
	if lines := strings.Count(out.String(), "\n"); lines != 5 {
		t.Errorf("%d lines, want 5", lines)
	}
	if out.Len() > 5*700 {
		t.Errorf("5 lines have %d bytes", out.Len())
	}
	if !strings.Contains(out.String(), "(1048577 bytes)") {
		t.Error("a shortened text does not say how long it was")
	}
	out.Reset()
	l.limiter = rate.NewLimiter(rate.Inf, 1)
	l.Warn("refused", "path", "/short")
	if line := out.String(); !strings.Contains(line, "level=WARN msg=refused path=/short omitted=995") {
		t.Errorf("the next line is %q", line)
	}
}
