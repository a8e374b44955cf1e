package faultfs

import (
	"maps"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// server serves a disk to the kernel. Only pages of open files are cached; the kernel drops them when a file is opened.
type server struct {
	fuse.RawFileSystem
	d *disk
}

func newServer(d *disk) *server {
	return &server{RawFileSystem: fuse.NewDefaultRawFileSystem(), d: d}
}

func (s *server) String() string { return "faultfs" }

// at begins an operation on a file. If the file is not nil, the disk's mu is held.
func (s *server) at(op string, cancel <-chan struct{}, id uint64) (*file, fuse.Status) {
	if errno := s.d.begin(op, cancel); errno != 0 {
		return nil, fuse.Status(errno)
	}
	f := s.d.files[id]
	if f == nil {
		s.d.mu.Unlock()
		return nil, fuse.Status(syscall.ESTALE)
	}
	return f, fuse.OK
}

func (f *file) attr(out *fuse.Attr) {
	out.Ino, out.Mode, out.Nlink, out.Blksize = f.id, f.mode, 1, pageSize
	out.Size, out.Blocks = uint64(f.size), uint64(len(f.pages))*pageSize/512
	out.SetTimes(&f.changed, &f.changed, &f.changed)
}

// found fills in an entry.
func (f *file) found(out *fuse.EntryOut) {
	f.lookups++
	out.NodeId = f.id
	f.attr(&out.Attr)
}

func (s *server) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, status := s.at("lookup", cancel, header.NodeId)
	if dir == nil {
		return status
	}
	defer s.d.mu.Unlock()
	f := dir.entries[name]
	if f == nil {
		return fuse.ENOENT
	}
	f.found(out)
	return fuse.OK
}

func (s *server) Forget(id, lookups uint64) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if f := s.d.files[id]; f != nil {
		f.lookups -= min(lookups, f.lookups)
	}
}

func (s *server) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f, status := s.at("getattr", cancel, in.NodeId)
	if f == nil {
		return status
	}
	defer s.d.mu.Unlock()
	f.attr(&out.Attr)
	return fuse.OK
}

func (s *server) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	f, status := s.at("setattr", cancel, in.NodeId)
	if f == nil {
		return status
	}
	defer s.d.mu.Unlock()
	if size, ok := in.GetSize(); ok && f.pages != nil {
		s.d.resize(f, int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		f.mode = f.mode&syscall.S_IFMT | mode&0o7777
	}
	f.attr(&out.Attr)
	return fuse.OK
}

func (s *server) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

func (s *server) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, status := s.at("mkdir", cancel, in.NodeId)
	if dir == nil {
		return status
	}
	defer s.d.mu.Unlock()
	if dir.entries[name] != nil {
		return fuse.Status(syscall.EEXIST)
	}
	f := s.d.newFile(syscall.S_IFDIR | in.Mode&0o7777)
	s.d.link(dir, name, f)
	f.found(out)
	return fuse.OK
}

func (s *server) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	dir, status := s.at("unlink", cancel, header.NodeId)
	if dir == nil {
		return status
	}
	defer s.d.mu.Unlock()
	if dir.entries[name] == nil {
		return fuse.ENOENT
	}
	s.d.unlink(dir, name)
	return fuse.OK
}

func (s *server) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	dir, status := s.at("rmdir", cancel, header.NodeId)
	if dir == nil {
		return status
	}
	defer s.d.mu.Unlock()
	f := dir.entries[name]
	switch {
	case f == nil:
		return fuse.ENOENT
	case len(f.entries) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	s.d.unlink(dir, name)
	return fuse.OK
}

func (s *server) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	dir, status := s.at("rename", cancel, in.NodeId)
	if dir == nil {
		return status
	}
	defer s.d.mu.Unlock()
	to := s.d.files[in.Newdir]
	if to == nil || dir.entries[oldName] == nil {
		return fuse.ENOENT
	}
	if old := to.entries[newName]; old != nil && len(old.entries) > 0 {
		return fuse.Status(syscall.ENOTEMPTY)
	}
	s.d.rename(dir, oldName, to, newName)
	return fuse.OK
}

func (s *server) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, status := s.at("create", cancel, in.NodeId)
	if dir == nil {
		return status
	}
	defer s.d.mu.Unlock()
	f := dir.entries[name]
	if f == nil {
		f = s.d.newFile(syscall.S_IFREG | in.Mode&0o7777)
		s.d.link(dir, name, f)
	} else if in.Flags&syscall.O_EXCL != 0 {
		return fuse.Status(syscall.EEXIST)
	}
	f.found(&out.EntryOut)
	return fuse.OK
}

func (s *server) Open(cancel <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	f, status := s.at("open", cancel, in.NodeId)
	if f == nil {
		return status
	}
	defer s.d.mu.Unlock()
	if in.Flags&syscall.O_TRUNC != 0 && f.pages != nil {
		s.d.resize(f, 0)
	}
	return fuse.OK
}

func (s *server) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f, status := s.at("read", cancel, in.NodeId)
	if f == nil {
		return nil, status
	}
	defer s.d.mu.Unlock()
	return fuse.ReadResultData(buf[:s.d.read(f, buf, int64(in.Offset))]), fuse.OK
}

func (s *server) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f, status := s.at("write", cancel, in.NodeId)
	if f == nil {
		return 0, status
	}
	defer s.d.mu.Unlock()
	n, errno := s.d.write(f, data, int64(in.Offset))
	return uint32(n), fuse.Status(errno)
}

func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (s *server) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f, status := s.at("sync", cancel, in.NodeId)
	if f == nil {
		return status
	}
	defer s.d.mu.Unlock()
	s.d.syncFile(f)
	return fuse.OK
}

func (s *server) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f, status := s.at("sync", cancel, in.NodeId)
	if f == nil {
		return status
	}
	defer s.d.mu.Unlock()
	s.d.syncDir(f)
	return fuse.OK
}

func (s *server) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	f, status := s.at("write", cancel, in.NodeId)
	if f == nil {
		return status
	}
	defer s.d.mu.Unlock()
	const keepSize = 1
	if in.Mode&^keepSize != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return fuse.Status(s.d.allocate(f, int64(in.Offset), int64(in.Length), in.Mode&keepSize != 0))
}

func (s *server) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

func (s *server) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir, status := s.at("readdir", cancel, in.NodeId)
	if dir == nil {
		return status
	}
	defer s.d.mu.Unlock()
	names := slices.Sorted(maps.Keys(dir.entries))
	for i := int(in.Offset); i < len(names); i++ {
		f := dir.entries[names[i]]
		if !out.AddDirEntry(fuse.DirEntry{Mode: f.mode, Name: names[i], Ino: f.id, Off: uint64(i + 1)}) {
			break
		}
	}
	return fuse.OK
}

func (s *server) StatFs(cancel <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if errno := s.d.begin("statfs", cancel); errno != 0 {
		return fuse.Status(errno)
	}
	defer s.d.mu.Unlock()
	used, total := s.d.used(), s.d.capacity
	if total == 0 {
		total = used + 1<<24
	}
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	out.Blocks, out.Bfree = uint64(total), uint64(max(0, total-used))
	out.Bavail = out.Bfree
	return fuse.OK
}
