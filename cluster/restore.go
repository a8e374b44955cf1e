package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

const (
	// restorePrefix is where a backup is staged, below an id of its restore; restoreMarks says since when.
	restorePrefix = kv.OwnPrefix + "restore/"
	restoreMarks  = kv.OwnPrefix + "restoring/"
	// stagedPiece is the size of one staged value.
	stagedPiece = 1 << 20
	// abandonedAfter is how old a restore grows that nobody finishes.
	abandonedAfter = time.Hour
)

// Restored is what a restore did.
type Restored struct {
	Epoch    Epoch      `json:"epoch"`
	Backup   BackupInfo `json:"backup"`
	Revision uint64     `json:"revision"`
}

type restoreMark struct {
	Since  time.Time `json:"since"`
	Master string    `json:"master"`
}

// RestoreBackup makes the cluster's state equal to a backup, on every master at one instant. It may be called on any master;
// nobody has to stop. The cluster's own keys (tokens, members, epoch) stay as they are.
//
// The backup is checked whole before anything is written, then staged through the log in pieces, then brought back by one
// command. If this master or the leader dies before that command is committed, the state is as it was. What was written
// since the backup is gone; revisions grow as with any write, and watchers see what changes. Where the cluster does not
// continue the backup's own past, revisions jump ahead of what that past can have handed out, and watchers start anew.
//
// Errors: ErrBadBackup, ErrForeignBackup (unless force says that Secrets which cannot be opened are fine), ErrFeatureLevel, ErrRefused
// where a master has not enough memory or disk for it.
func (c *Cluster) RestoreBackup(ctx context.Context, r io.Reader, force bool) (*Restored, error) {
	restored, err := c.restoreBackup(ctx, r, force)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	return restored, nil
}

func (c *Cluster) restoreBackup(ctx context.Context, r io.Reader, force bool) (*Restored, error) {
	if _, err := c.Consistent(ctx); err != nil {
		return nil, err
	}
	if err := c.requireLevel(ctx, 2, "restoring a backup"); err != nil {
		return nil, err
	}
	file, info, err := c.spool(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { file.Close() }()
	if err := c.admitBackup(info, force); err != nil {
		return nil, err
	}
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if err := c.checkRestoreFits(ctx, stat.Size(), info.Objects); err != nil {
		return nil, err
	}
	if err := c.awaitEpoch(ctx); err != nil {
		return nil, err
	}
	before, epochRevision, err := epochOf(c.store.View())
	if err != nil {
		return nil, err
	}
	id := random.Hex(8)
	c.log.Info("restoring a backup", "revision", info.Revision, "created", info.CreatedAt, "objects", info.Objects)
	if err := c.stage(ctx, id, file); err != nil {
		c.unstage(id)
		return nil, err
	}
	still, err := c.quiesce(ctx, id)
	if err != nil {
		c.unstage(id)
		return nil, err
	}
	defer c.goOn(id) // where the command below did not come
	next := newEpoch(before.Number+1, before.Lineage, EpochRestore)
	next.Backup = &info
	command := &kv.Command{ID: random.CommandID(), Restore: &kv.Restore{From: restorePrefix + id + "/", Keep: kv.OwnPrefix}}
	if info.Lineage != before.Lineage {
		next.Lineage = random.Hex(8)
		command.Restore.Revision = max(info.Revision, c.store.View().Revision()) + revisionGap
	}
	value, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	command.Ops = []kv.Op{
		{Key: epochKey, Value: value, Cond: atOrAbsent(epochRevision), Revision: epochRevision},
		{Key: restoreMarks + id, Delete: true},
	}
	command.Ops = append(command.Ops, still...)
	result, err := c.Propose(ctx, command)
	switch {
	case err != nil:
		if !errors.Is(err, kv.ErrOutcomeUnknown) {
			c.unstage(id)
		}
		return nil, err
	case result.Failed != nil:
		c.unstage(id)
		return nil, errors.New("another restore came first, or this one took too long; look at the state, and start again if need be")
	}
	c.log.Info("a backup was restored", "revision", result.Revision, "epoch", next.Number)
	return &Restored{Epoch: next, Backup: info, Revision: result.Revision}, nil
}

// spool keeps a backup in an unnamed file beside the data while it is checked whole, and answers the file where its snapshot
// begins.
func (c *Cluster) spool(ctx context.Context, r io.Reader) (_ *os.File, _ BackupInfo, err error) {
	file, err := os.CreateTemp(c.cfg.DataDir, "restore-*.tmp")
	if err != nil {
		return nil, BackupInfo{}, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if err := os.Remove(file.Name()); err != nil {
		return nil, BackupInfo{}, err
	}
	health := c.disk.store.Health()
	room := max(health.Free-health.Needed, 0)
	switch n, err := io.Copy(&contextWriter{ctx, file}, io.LimitReader(r, room+1)); {
	case err != nil:
		return nil, BackupInfo{}, fmt.Errorf("receive the backup: %w", err)
	case n > room:
		return nil, BackupInfo{}, fmt.Errorf("%w: the backup is larger than the %d MiB that %s can spare; free some space there", errclass.ErrRefused, room>>20, health.Dir)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, BackupInfo{}, err
	}
	info, err := ReadBackup(file, nil)
	if err != nil {
		return nil, info, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, info, err
	}
	_, err = readBackupHead(file)
	return file, info, err
}

// admitBackup says whether this cluster can use a backup.
func (c *Cluster) admitBackup(info BackupInfo, force bool) error {
	if force {
		return nil
	}
	known := c.secretKeyPrints()
	var missing []string
	for _, key := range info.SecretKeys {
		if !slices.Contains(known, key) {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w (%s; this one is %s): the keys %s that sealed its Secrets are not known here. Start the new cluster with the %s of a master of the old one in its data directory, or restore with --force and without those Secrets",
			ErrForeignBackup, info.ClusterID, c.identity.ClusterID, strings.Join(missing, ", "), identity.File)
	}
	return nil
}

// stage puts a snapshot into the state in pieces.
func (c *Cluster) stage(ctx context.Context, id string, r io.Reader) error {
	mark, err := json.Marshal(restoreMark{Since: time.Now().UTC().Truncate(time.Second), Master: c.cfg.Name})
	if err != nil {
		return err
	}
	if _, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: restoreMarks + id, Value: mark}}}); err != nil {
		return fmt.Errorf("stage the backup: %w", err)
	}
	for i := 0; ; i++ {
		piece := make([]byte, stagedPiece) // the state keeps it
		n, err := io.ReadFull(r, piece)
		if err == io.EOF {
			return nil
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("read the backup: %w", err)
		}
		_, err = c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: fmt.Sprintf("%s%s/%08d", restorePrefix, id, i), Value: piece[:n]}}})
		if err != nil {
			return fmt.Errorf("stage the backup: %w", err)
		}
	}
}

// unstage takes a staged backup away again; what remains is swept later.
func (c *Cluster) unstage(id string) {
	ctx, cancel := context.WithTimeout(c.life, c.cfg.Timings.Propose)
	defer cancel()
	if err := c.deleteStaged(ctx, id); err != nil {
		c.log.Warn("a restore that failed could not be cleaned up yet", "error", err)
	}
}

func (c *Cluster) deleteStaged(ctx context.Context, id string) error {
	var keys []string
	prefix := restorePrefix + id + "/"
	c.store.View().Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		keys = append(keys, v.Key)
		return true
	})
	for _, key := range append(keys, restoreMarks+id) {
		if _, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: key, Delete: true}}}); err != nil {
			return err
		}
	}
	return nil
}

// sweepRestores is the duty of the leader that takes away what restores left that nobody finished.
func (c *Cluster) sweepRestores(ctx context.Context) error {
	ticker := time.NewTicker(abandonedAfter / 4)
	defer ticker.Stop()
	for {
		if err := c.sweepRestoresBefore(ctx, time.Now().Add(-abandonedAfter)); err != nil && ctx.Err() == nil {
			c.log.Warn("abandoned restores could not be swept", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Cluster) sweepRestoresBefore(ctx context.Context, before time.Time) error {
	var abandoned []string
	c.store.View().Range(restoreMarks, kv.PrefixEnd(restoreMarks), func(v *kv.Version) bool {
		var mark restoreMark
		if err := json.Unmarshal(v.Value, &mark); err != nil || mark.Since.Before(before) {
			abandoned = append(abandoned, filepath.Base(v.Key))
		}
		return true
	})
	for _, id := range abandoned {
		if err := c.deleteStaged(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
