package logline

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxText is how many bytes of a client's text a log line contains.
const maxText = 200

// Cut shortens a text that a client chose, so that it cannot fill the log.
func Cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + fmt.Sprintf("... (%d bytes)", len(text))
}

// Limited logs what any client can cause: a few lines at once, then one every ten seconds, with the number of lines that were
// omitted before it. It shortens their strings and errors with Cut. It is safe for concurrent use.
type Limited struct {
	log     *slog.Logger
	limiter *rate.Limiter
	mu      sync.Mutex
	omitted int
}

// NewLimited creates a Limited.
func NewLimited(log *slog.Logger) *Limited {
	return &Limited{log: log, limiter: rate.NewLimiter(rate.Every(10*time.Second), 5)}
}

// Info logs at level Info.
func (l *Limited) Info(message string, args ...any) { l.line(slog.LevelInfo, message, args) }

// Warn logs at level Warn.
func (l *Limited) Warn(message string, args ...any) { l.line(slog.LevelWarn, message, args) }

func (l *Limited) line(level slog.Level, message string, args []any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	l.mu.Lock()
	if !l.limiter.Allow() {
		l.omitted++
		l.mu.Unlock()
		return
	}
	omitted := l.omitted
	l.omitted = 0
	l.mu.Unlock()
	short := make([]any, 0, len(args)+2)
	for _, arg := range args {
		switch a := arg.(type) {
		case string:
			arg = Cut(a)
		case error:
			arg = Cut(a.Error())
		}
		short = append(short, arg)
	}
	if omitted > 0 {
		short = append(short, "omitted", omitted)
	}
	l.log.Log(context.Background(), level, message, short...)
}
