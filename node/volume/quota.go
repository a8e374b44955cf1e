package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Project quotas limit what the files of one folder occupy: the folder has a project id, which everything that is made in it inherits.
// ext4 and XFS have them if they are mounted with prjquota.

// fsxattr is the kernel's struct fsxattr.
type fsxattr struct {
	flags, extentSize, extents, project, copyOnWrite uint32
	_                                                [8]byte
}

// diskQuota is the kernel's struct fs_disk_quota.
type diskQuota struct {
	version                                        int8
	flags                                          int8
	fields                                         uint16
	id                                             uint32
	hardBlocks, softBlocks, hardInodes, softInodes uint64
	blocks, inodes                                 uint64
	inodeTimer, blockTimer                         int32
	inodeWarnings, blockWarnings                   uint16
	_                                              int32
	realtimeHard, realtimeSoft, realtimeBlocks     uint64
	realtimeTimer                                  int32
	realtimeWarnings                               uint16
	_                                              int16
	_                                              [8]byte
}

const (
	getAttributes  = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes  = 0x401c5820 // FS_IOC_FSSETXATTR
	projectInherit = 0x200      // FS_XFLAG_PROJINHERIT
	projectQuotas  = 2          // PRJQUOTA
	setProject     = (('X'<<8)+4)<<8 | projectQuotas
	hardBlockLimit = 1 << 3 // FS_DQ_BHARD
	softBlockLimit = 1 << 2 // FS_DQ_BSOFT
	basicBlock     = 512
	// firstProject is the first project id that is used: smaller ones are left to administrators.
	firstProject = 1 << 20
)

// choosing serializes the choice of project ids.
var choosing sync.Mutex

var errNoQuotas = errors.New("the file system has no project quotas; mount it with the option prjquota")

// limitTree limits an empty folder, or one that it has limited before, to so many bytes. Folders beside it in root have other ids.
func limitTree(dir, root string, bytes int64) error {
	d, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	device, err := deviceOf(d)
	if err != nil {
		return err
	}
	choosing.Lock()
	defer choosing.Unlock()
	attr, err := attributes(d)
	if err != nil {
		return errNoQuotas
	}
	if attr.project < firstProject {
		if attr.project, err = freeProject(root); err != nil {
			return err
		}
	}
	quota := diskQuota{version: 1, flags: projectQuotas, fields: hardBlockLimit | softBlockLimit, id: attr.project,
		hardBlocks: uint64(bytes+basicBlock-1) / basicBlock, softBlocks: uint64(bytes+basicBlock-1) / basicBlock}
	path, err := unix.BytePtrFromString(device)
	if err != nil {
		return err
	}
	// The limit comes first: without project quotas it fails, and the folder is left as it is.
	if _, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, setProject, uintptr(unsafe.Pointer(path)), uintptr(attr.project), uintptr(unsafe.Pointer(&quota)), 0, 0); errno != 0 {
		if errno == unix.ESRCH || errno == unix.ENOSYS || errno == unix.ENOTBLK || errno == unix.EINVAL || errno == unix.EOPNOTSUPP {
			return errNoQuotas
		}
		return fmt.Errorf("quotactl: %w", errno)
	}
	if attr.flags&projectInherit != 0 {
		return nil
	}
	attr.flags |= projectInherit
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), setAttributes, uintptr(unsafe.Pointer(&attr))); errno != 0 {
		return fmt.Errorf("set the project id: %w", errno)
	}
	return nil
}

func attributes(f *os.File) (fsxattr, error) {
	var attr fsxattr
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getAttributes, uintptr(unsafe.Pointer(&attr))); errno != 0 {
		return attr, errno
	}
	return attr, nil
}

// freeProject returns a project id that no folder in root has.
func freeProject(root string) (uint32, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return 0, err
	}
	used := map[uint32]bool{}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		d, err := os.OpenFile(filepath.Join(root, e.Name()), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		attr, err := attributes(d)
		d.Close()
		if err != nil {
			return 0, err
		}
		used[attr.project] = true
	}
	for id := uint32(firstProject); ; id++ {
		if !used[id] {
			return id, nil
		}
	}
}

// deviceOf returns the device of the file system that a file is in.
func deviceOf(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	name, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
	if err != nil {
		return "", errNoQuotas // it is on no device
	}
	return filepath.Join("/dev", filepath.Base(name)), nil
}
