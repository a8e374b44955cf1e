package consensus

import (
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// patience bounds waiting, in virtual time where masters are simulated.
const patience = 20 * time.Second

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("KONTIKI_TEST_LOG") == "" {
		return slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func put(key, value string) *kv.Command {
	return &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: key, Value: []byte(value)}}}
}
