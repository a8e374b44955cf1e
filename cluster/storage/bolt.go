package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/eintr"
	"github.com/kontiki/kontiki/internal/failpoint"
)

const (
	logFile    = "raft.db"
	newLogFile = "raft.db.new"

	lockTimeout = time.Second
)

// createLog creates an empty log and its watermark durably. The log gets its name only when it is complete.
func createLog(dir string) error {
	if err := createWatermark(dir); err != nil {
		return fmt.Errorf("make the raft log: %w", err)
	}
	failpoint.Hit("storage.create.watermark")
	path := filepath.Join(dir, newLogFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make the raft log: %w", err)
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions()})
	if err == nil {
		err = bolt.Close()
	}
	if err != nil {
		return fmt.Errorf("make the raft log: %w", err)
	}
	failpoint.Hit("storage.create.written")
	if err := durable.Rename(path, filepath.Join(dir, logFile)); err != nil {
		return fmt.Errorf("make the raft log: %w", err)
	}
	return nil
}

// lockLog opens the log's file and takes the same lock as bbolt. It polls, as flock(2) has no timeout. Errors: ErrLocked.
func lockLog(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, logFile), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the raft log: %w", err)
	}
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(20 * time.Millisecond) {
		err := eintr.Retry(func() error { return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) })
		switch {
		case err == nil:
			return file, nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock the raft log: %w", err), file.Close())
		case time.Now().After(deadline):
			return nil, errors.Join(fmt.Errorf("open the raft log %s: %w", file.Name(), ErrLocked), file.Close())
		}
	}
}

func boltOptions() *bbolt.Options {
	return &bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}
}

// openBolt opens raft-boltdb's store on a file that is open, locked and checked. The file stays open and locked after a read-only
// store is closed. (Closing a writable one unlocks it.) Opening to write makes one commit.
func openBolt(file *os.File, readOnly bool) (*raftboltdb.BoltStore, error) {
	options := boltOptions()
	options.ReadOnly = readOnly
	options.OpenFile = func(string, int, os.FileMode) (*os.File, error) {
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), file.Name()), nil
	}
	var bolt *raftboltdb.BoltStore
	err := eintr.Retry(func() error { // bbolt does not repeat an interrupted fdatasync
		return faultless(func() (err error) {
			bolt, err = raftboltdb.New(raftboltdb.Options{Path: file.Name(), BoltOptions: options})
			return err
		})
	})
	if errors.Is(err, berrors.ErrTimeout) {
		err = ErrLocked
	}
	if err != nil {
		return nil, fmt.Errorf("open the raft log: %w", err)
	}
	return bolt, nil
}

// faultless runs a function that reads the mapped file, and returns its faults as errors: a page that cannot be read causes a
// memory fault, and bbolt panics on an invalid page.
func faultless(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return f()
}
