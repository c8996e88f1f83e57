package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Operation is one request of the kernel and how it was answered.
type Operation struct {
	Kind  string // "lookup", "readdirplus", "write" …
	Errno string // "ENOENT" …; "" = it went well
	Took  time.Duration
}

// observed tells of every request that passes. Forgets are no requests: they
// have no answer, and come by the thousand.
type observed struct {
	fuse.RawFileSystem
	tell func(Operation)
}

func (o observed) done(kind string, began time.Time, status fuse.Status) {
	op := Operation{Kind: kind, Took: time.Since(began)}
	if status != fuse.OK {
		op.Errno = unix.ErrnoName(unix.Errno(status))
	}
	o.tell(op)
}

func (o observed) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Lookup(cancel, header, name, out)
	o.done("lookup", began, status)
	return status
}

func (o observed) GetAttr(cancel <-chan struct{}, input *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.GetAttr(cancel, input, out)
	o.done("getattr", began, status)
	return status
}

func (o observed) SetAttr(cancel <-chan struct{}, input *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.SetAttr(cancel, input, out)
	o.done("setattr", began, status)
	return status
}

func (o observed) Mknod(cancel <-chan struct{}, input *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Mknod(cancel, input, name, out)
	o.done("mknod", began, status)
	return status
}

func (o observed) Mkdir(cancel <-chan struct{}, input *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Mkdir(cancel, input, name, out)
	o.done("mkdir", began, status)
	return status
}

func (o observed) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Unlink(cancel, header, name)
	o.done("unlink", began, status)
	return status
}

func (o observed) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Rmdir(cancel, header, name)
	o.done("rmdir", began, status)
	return status
}

func (o observed) Rename(cancel <-chan struct{}, input *fuse.RenameIn, oldName, newName string) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Rename(cancel, input, oldName, newName)
	o.done("rename", began, status)
	return status
}

func (o observed) Link(cancel <-chan struct{}, input *fuse.LinkIn, filename string, out *fuse.EntryOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Link(cancel, input, filename, out)
	o.done("link", began, status)
	return status
}

func (o observed) Symlink(cancel <-chan struct{}, header *fuse.InHeader, pointedTo, linkName string, out *fuse.EntryOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Symlink(cancel, header, pointedTo, linkName, out)
	o.done("symlink", began, status)
	return status
}

func (o observed) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	began := time.Now()
	v, status := o.RawFileSystem.Readlink(cancel, header)
	o.done("readlink", began, status)
	return v, status
}

func (o observed) Access(cancel <-chan struct{}, input *fuse.AccessIn) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Access(cancel, input)
	o.done("access", began, status)
	return status
}

func (o observed) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	began := time.Now()
	v, status := o.RawFileSystem.GetXAttr(cancel, header, attr, dest)
	o.done("getxattr", began, status)
	return v, status
}

func (o observed) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	began := time.Now()
	v, status := o.RawFileSystem.ListXAttr(cancel, header, dest)
	o.done("listxattr", began, status)
	return v, status
}

func (o observed) SetXAttr(cancel <-chan struct{}, input *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.SetXAttr(cancel, input, attr, data)
	o.done("setxattr", began, status)
	return status
}

func (o observed) RemoveXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.RemoveXAttr(cancel, header, attr)
	o.done("removexattr", began, status)
	return status
}

func (o observed) Create(cancel <-chan struct{}, input *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Create(cancel, input, name, out)
	o.done("create", began, status)
	return status
}

func (o observed) Tmpfile(cancel <-chan struct{}, input *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Tmpfile(cancel, input, out)
	o.done("tmpfile", began, status)
	return status
}

func (o observed) Open(cancel <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Open(cancel, input, out)
	o.done("open", began, status)
	return status
}

func (o observed) Read(cancel <-chan struct{}, input *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	began := time.Now()
	v, status := o.RawFileSystem.Read(cancel, input, buf)
	o.done("read", began, status)
	return v, status
}

func (o observed) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Lseek(cancel, in, out)
	o.done("lseek", began, status)
	return status
}

func (o observed) GetLk(cancel <-chan struct{}, input *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.GetLk(cancel, input, out)
	o.done("getlk", began, status)
	return status
}

func (o observed) SetLk(cancel <-chan struct{}, input *fuse.LkIn) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.SetLk(cancel, input)
	o.done("setlk", began, status)
	return status
}

func (o observed) SetLkw(cancel <-chan struct{}, input *fuse.LkIn) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.SetLkw(cancel, input)
	o.done("setlkw", began, status)
	return status
}

func (o observed) Release(cancel <-chan struct{}, input *fuse.ReleaseIn) {
	defer o.done("release", time.Now(), fuse.OK)
	o.RawFileSystem.Release(cancel, input)
}

func (o observed) Write(cancel <-chan struct{}, input *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	began := time.Now()
	v, status := o.RawFileSystem.Write(cancel, input, data)
	o.done("write", began, status)
	return v, status
}

func (o observed) Writev(cancel <-chan struct{}, input *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	began := time.Now()
	v, status := o.RawFileSystem.Writev(cancel, input, data)
	if status != fuse.ENOSYS { // else Write is asked next
		o.done("write", began, status)
	}
	return v, status
}

func (o observed) CopyFileRange(cancel <-chan struct{}, input *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	began := time.Now()
	v, status := o.RawFileSystem.CopyFileRange(cancel, input)
	o.done("copyfilerange", began, status)
	return v, status
}

func (o observed) Ioctl(cancel <-chan struct{}, input *fuse.IoctlIn, inbuf []byte, output *fuse.IoctlOut, outbuf []byte) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Ioctl(cancel, input, inbuf, output, outbuf)
	o.done("ioctl", began, status)
	return status
}

func (o observed) Flush(cancel <-chan struct{}, input *fuse.FlushIn) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Flush(cancel, input)
	o.done("flush", began, status)
	return status
}

func (o observed) Fsync(cancel <-chan struct{}, input *fuse.FsyncIn) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Fsync(cancel, input)
	o.done("fsync", began, status)
	return status
}

func (o observed) Fallocate(cancel <-chan struct{}, input *fuse.FallocateIn) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Fallocate(cancel, input)
	o.done("fallocate", began, status)
	return status
}

func (o observed) OpenDir(cancel <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.OpenDir(cancel, input, out)
	o.done("opendir", began, status)
	return status
}

func (o observed) ReadDir(cancel <-chan struct{}, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.ReadDir(cancel, input, out)
	o.done("readdir", began, status)
	return status
}

func (o observed) ReadDirPlus(cancel <-chan struct{}, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.ReadDirPlus(cancel, input, out)
	o.done("readdirplus", began, status)
	return status
}

func (o observed) ReleaseDir(input *fuse.ReleaseIn) {
	defer o.done("releasedir", time.Now(), fuse.OK)
	o.RawFileSystem.ReleaseDir(input)
}

func (o observed) FsyncDir(cancel <-chan struct{}, input *fuse.FsyncIn) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.FsyncDir(cancel, input)
	o.done("fsyncdir", began, status)
	return status
}

func (o observed) StatFs(cancel <-chan struct{}, input *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.StatFs(cancel, input, out)
	o.done("statfs", began, status)
	return status
}

func (o observed) Statx(cancel <-chan struct{}, input *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	began := time.Now()
	status := o.RawFileSystem.Statx(cancel, input, out)
	o.done("statx", began, status)
	return status
}
