package server

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/kontiki/kontiki/api/journal"
)

// openJournal opens this master's journal of changes, nil if it is to keep none.
func (o *serverOptions) openJournal(log *slog.Logger) (*journal.Journal, error) {
	if o.journalSize == 0 {
		return nil, nil
	}
	dir := filepath.Join(o.dataDir, "journal")
	j, err := journal.Open(journal.Config{Dir: dir, Bytes: int64(o.journalSize) << 20, Age: o.journalAge, Log: log.With("part", "journal")})
	if err != nil {
		return nil, fmt.Errorf("the journal in %s: %w", dir, err)
	}
	return j, nil
}
