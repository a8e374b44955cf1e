package backup

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
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/internal/sealed"
)

const (
	// restorePrefix is the prefix of staged backups, followed by the restore's id; the keys below restoreMarks say since when they
	// are staged.
	restorePrefix = kv.OwnPrefix + "restore/"
	restoreMarks  = kv.OwnPrefix + "restoring/"
	// stagedPiece is the size of one staged value.
	stagedPiece = 1 << 20
	// abandonedAfter is the age at which an unfinished restore is considered abandoned.
	abandonedAfter = time.Hour
)

// Restored is the result of a restore.
type Restored struct {
	Epoch    Epoch  `json:"epoch"`
	Backup   Info   `json:"backup"`
	Revision uint64 `json:"revision"`
}

type restoreMark struct {
	Since  time.Time `json:"since"`
	Master string    `json:"master"`
}

// Restore makes the cluster's state equal to a backup, on every master at one instant. It may be called on any master; no master
// has to be stopped. The cluster's own keys (tokens, members, epoch) do not change.
//
// The backup is checked completely before anything is written, then staged through the log in pieces, then restored by one command.
// If this master or the leader dies before that command is committed, the state is unchanged. Writes since the backup are lost;
// revisions grow as with any write, and watchers get the changes. If the cluster's log is not a continuation of the backup's,
// revisions jump beyond those that the backup's log can have assigned, and watchers start again.
//
// Errors: ErrBad, ErrForeign (unless force accepts that Secrets cannot be decrypted), ErrFeatureLevel, ErrRefused if a master has
// too little memory or disk space.
func (b *Backups) Restore(ctx context.Context, r io.Reader, force bool) (*Restored, error) {
	restored, err := b.restore(ctx, r, force)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	return restored, nil
}

func (b *Backups) restore(ctx context.Context, r io.Reader, force bool) (*Restored, error) {
	if _, err := b.state.Consistent(ctx); err != nil {
		return nil, err
	}
	if err := b.o.RequireLevel(ctx, 2, "restoring a backup"); err != nil {
		return nil, err
	}
	file, info, err := b.spool(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { file.Close() }()
	if err := b.admit(info, force); err != nil {
		return nil, err
	}
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if err := b.checkRestoreFits(ctx, stat.Size(), info.Objects); err != nil {
		return nil, err
	}
	if err := b.awaitEpoch(ctx); err != nil {
		return nil, err
	}
	before, epochRevision, err := EpochOf(b.state.View())
	if err != nil {
		return nil, err
	}
	id := random.Hex(8)
	b.log.Info("restoring a backup", "revision", info.Revision, "created", info.CreatedAt, "objects", info.Objects)
	if err := b.stage(ctx, id, file); err != nil {
		b.unstage(id)
		return nil, err
	}
	still, err := b.state.StopDuties(ctx, id)
	if err != nil {
		b.unstage(id)
		return nil, err
	}
	defer b.state.ResumeDuties(id) // if the command below was not committed
	next := newEpoch(before.Number+1, before.Lineage, EpochRestore)
	next.Backup = &info
	command := &kv.Command{ID: random.CommandID(), Restore: &kv.Restore{From: restorePrefix + id + "/", Keep: kv.OwnPrefix}}
	if info.Lineage != before.Lineage {
		next.Lineage = random.Hex(8)
		command.Restore.Revision = max(info.Revision, b.state.View().Revision()) + revisionGap
	}
	value, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	command.Ops = []kv.Op{
		{Key: epochKey, Value: value, Cond: kv.AtOrAbsent(epochRevision), Revision: epochRevision},
		{Key: restoreMarks + id, Delete: true},
	}
	command.Ops = append(command.Ops, still...)
	if !force {
		command.Ops = append(command.Ops, keysStillHeld(info)...)
	}
	result, err := b.state.Propose(ctx, command)
	switch {
	case err != nil:
		if !errors.Is(err, kv.ErrOutcomeUnknown) {
			b.unstage(id)
		}
		return nil, err
	case result.Failed != nil:
		b.unstage(id)
		return nil, errors.New("another restore was faster, or this one took too long; check the cluster's state, and start again if necessary")
	}
	b.log.Info("a backup was restored", "revision", result.Revision, "epoch", next.Number)
	return &Restored{Epoch: next, Backup: info, Revision: result.Revision}, nil
}

// spool stores a backup in an unnamed file on the data's disk while it is checked completely, and returns the file, positioned at
// the beginning of the snapshot.
func (b *Backups) spool(ctx context.Context, r io.Reader) (_ *os.File, _ Info, err error) {
	file, err := os.CreateTemp(b.o.Dir, "restore-*.tmp")
	if err != nil {
		return nil, Info{}, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if err := os.Remove(file.Name()); err != nil {
		return nil, Info{}, err
	}
	health := b.state.DiskHealth()
	room := max(health.Free-health.Needed, 0)
	switch n, err := io.Copy(&contextWriter{ctx, file}, io.LimitReader(r, room+1)); {
	case err != nil:
		return nil, Info{}, fmt.Errorf("receive the backup: %w", err)
	case n > room:
		return nil, Info{}, fmt.Errorf("%w: the backup is larger than the %d MiB that %s can spare; free some space there", errclass.ErrRefused, room>>20, health.Dir)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, Info{}, err
	}
	info, err := Read(file, nil)
	if err != nil {
		return nil, info, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, info, err
	}
	_, err = readHead(file)
	return file, info, err
}

// admit returns an error if this cluster cannot use a backup.
func (b *Backups) admit(info Info, force bool) error {
	if force {
		return nil
	}
	known := b.secretKeyPrints()
	var missing []string
	for _, key := range info.SecretKeys {
		if !slices.Contains(known, key) {
			missing = append(missing, key)
		}
	}
	switch {
	case info.ClusterID != b.o.ClusterID:
		return fmt.Errorf("%w: it is of the cluster %s, this one is %s. Start the new cluster with the %s of a master of the old one in its data directory, or restore with --force and without its Secrets",
			ErrForeign, info.ClusterID, b.o.ClusterID, b.o.IdentityFile)
	case len(missing) > 0:
		return fmt.Errorf("%w: the keys %s that encrypted its Secrets were dropped since. Start a new cluster with the %s of a master of that time in its data directory, or restore with --force and without those Secrets",
			ErrForeign, strings.Join(missing, ", "), b.o.IdentityFile)
	}
	return nil
}

// keysStillHeld returns the condition that the cluster has not dropped a key that encrypts a backup's Secrets.
func keysStillHeld(info Info) (ops []kv.Op) {
	seen := map[string]bool{}
	for _, print := range info.SecretKeys {
		if name := keyOf(print); !seen[name] {
			seen[name] = true
			ops = append(ops, kv.Op{Key: sealed.DroppedPrefix + name, Check: true, Cond: kv.Absent})
		}
	}
	return ops
}

// stage writes a snapshot to the state in pieces.
func (b *Backups) stage(ctx context.Context, id string, r io.Reader) error {
	mark, err := json.Marshal(restoreMark{Since: time.Now().UTC().Truncate(time.Second), Master: b.o.Name})
	if err != nil {
		return err
	}
	if _, err := b.state.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: restoreMarks + id, Value: mark}}}); err != nil {
		return fmt.Errorf("stage the backup: %w", err)
	}
	for i := 0; ; i++ {
		piece := make([]byte, stagedPiece) // the state keeps a reference to it
		n, err := io.ReadFull(r, piece)
		if err == io.EOF {
			return nil
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("read the backup: %w", err)
		}
		_, err = b.state.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: fmt.Sprintf("%s%s/%08d", restorePrefix, id, i), Value: piece[:n]}}})
		if err != nil {
			return fmt.Errorf("stage the backup: %w", err)
		}
	}
}

// unstage removes a staged backup; what remains is swept later.
func (b *Backups) unstage(id string) {
	ctx, cancel := context.WithTimeout(b.state.Life(), b.o.CleanUp)
	defer cancel()
	if err := b.deleteStaged(ctx, id); err != nil {
		b.log.Warn("a failed restore could not be cleaned up yet", "error", err)
	}
}

func (b *Backups) deleteStaged(ctx context.Context, id string) error {
	var keys []string
	prefix := restorePrefix + id + "/"
	b.state.View().Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		keys = append(keys, v.Key)
		return true
	})
	for _, key := range append(keys, restoreMarks+id) {
		if _, err := b.state.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: key, Delete: true}}}); err != nil {
			return err
		}
	}
	return nil
}

// SweepAbandoned is the leader's duty that removes what unfinished restores left.
func (b *Backups) SweepAbandoned(ctx context.Context) error {
	pause.Every(ctx, abandonedAfter/4, func() {
		if err := b.sweepBefore(ctx, time.Now().Add(-abandonedAfter)); err != nil && ctx.Err() == nil {
			b.log.Warn("abandoned restores could not be swept", "error", err)
		}
	})
	return nil
}

func (b *Backups) sweepBefore(ctx context.Context, before time.Time) error {
	var abandoned []string
	b.state.View().Range(restoreMarks, kv.PrefixEnd(restoreMarks), func(v *kv.Version) bool {
		var mark restoreMark
		if err := json.Unmarshal(v.Value, &mark); err != nil || mark.Since.Before(before) {
			abandoned = append(abandoned, filepath.Base(v.Key))
		}
		return true
	})
	for _, id := range abandoned {
		if err := b.deleteStaged(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
