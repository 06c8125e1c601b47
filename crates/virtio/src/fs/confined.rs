//! What a guest may do with a shared folder.
//!
//! The library resolves one name at a time, relative to a folder it has open
//! and without following links, so a path never leads out of the folder. Here
//! is what it leaves open: whoever the guest's user is, the host's user acts;
//! nobody gets another owner or set-user-ID; there are no device nodes; and
//! open files end before the process has no descriptors left.

use super::hard_link::{self, Known};
use super::{Share, own_umask};
use fuse_backend_rs::abi::fuse_abi::CreateIn;
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, OpenOptions, SetattrValid, ZeroCopyReader,
    ZeroCopyWriter,
};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// How long the guest believes what it was told of a file: the host changes
/// files, too.
const VALID: Duration = Duration::from_secs(1);
/// Most bytes of a folder's list at a time.
const MAX_LIST: u32 = 64 << 10;
/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;
/// Flags of open(2) that change something.
const WRITES: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_TRUNC | libc::O_CREAT) as u32;

/// A shared folder.
pub(crate) struct Confined {
    inner: PassthroughFs,
    folder: Arc<File>,
    read_only: bool,
    /// First descriptor that is not for the guest.
    descriptors: u64,
}

fn refuse<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

/// One name, not a path.
fn check_name(name: &CStr) -> io::Result<()> {
    match name.to_bytes() {
        b"" | b"." | b".." => refuse(libc::EINVAL),
        name if name.contains(&b'/') => refuse(libc::EINVAL),
        _ => Ok(()),
    }
}

/// Permissions that give nobody another's rights.
fn check_mode(mode: u32) -> io::Result<()> {
    match mode & SET_ID {
        0 => Ok(()),
        _ => refuse(libc::EPERM),
    }
}

/// How many files this process may have open; all, if there is no limit.
fn descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.unwrap_or(u64::MAX)
}

impl Confined {
    pub(super) fn new(share: &Share) -> io::Result<Self> {
        let config = Config {
            // Without the dot the name would be a link, which is not followed.
            root_dir: format!("/proc/self/fd/{}/.", share.folder.as_raw_fd()),
            entry_timeout: VALID,
            attr_timeout: VALID,
            cache_policy: CachePolicy::Auto,
            // Files that are gone leave no number behind for ever.
            use_host_ino: true,
            // The guest's buffers need not be aligned as the host's disk likes.
            allow_direct_io: false,
            ..Config::default()
        };
        let limit = descriptor_limit();
        Ok(Self {
            inner: PassthroughFs::new(config)?,
            folder: share.folder.clone(),
            read_only: share.read_only,
            descriptors: limit - limit / 4,
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.read_only {
            true => refuse(libc::EROFS),
            false => Ok(()),
        }
    }

    /// A new name in a folder that may change.
    fn check_new(&self, name: &CStr) -> io::Result<()> {
        self.check_writable()?;
        check_name(name)?;
        self.check_room()
    }

    /// There are descriptors left for the guest. The kernel gives out the
    /// lowest that is free.
    fn check_room(&self) -> io::Result<()> {
        let next = self.folder.try_clone()?;
        match (next.as_raw_fd() as u64) < self.descriptors {
            true => Ok(()),
            false => refuse(libc::ENFILE),
        }
    }

    fn check_open(&self, flags: u32) -> io::Result<()> {
        if flags & WRITES != 0 {
            self.check_writable()?;
        }
        self.check_room()
    }
}

/// Calls that are passed on as they are.
macro_rules! pass {
    ($(fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(fn $name(&self, $($arg: $type),*) $(-> $result)? {
            self.inner.$name($($arg),*)
        })*
    };
}

/// Calls that are passed on if a check succeeds.
macro_rules! pass_if {
    ($(fn $name:ident($self:ident $(, $arg:ident: $type:ty)*) -> $result:ty { $check:expr })*) => {
        $(fn $name(&$self $(, $arg: $type)*) -> $result {
            $check?;
            $self.inner.$name($($arg),*)
        })*
    };
}

type Attributes = (libc::stat64, Duration);
type Opened = (Option<u64>, OpenOptions, Option<u32>);
type Created = (Entry, Option<u64>, OpenOptions, Option<u32>);

/// Extended attributes, locks, ioctl and what else is not here is ENOSYS.
impl FileSystem for Confined {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let more = FsOptions::ASYNC_READ
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::AUTO_INVAL_DATA
            | FsOptions::ATOMIC_O_TRUNC;
        let inner = own_umask::kept(|| self.inner.init(capable))?;
        Ok((inner | more) & !FsOptions::PERFILE_DAX)
    }

    /// The host's user acts for all users of the guest.
    fn id_remap(&self, ctx: &mut Context) -> io::Result<()> {
        (ctx.uid, ctx.gid) = (0, 0);
        Ok(())
    }

    fn destroy(&self) {
        own_umask::kept(|| self.inner.destroy());
    }

    fn link(&self, ctx: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.check_new(name)?;
        let known = |inode| -> io::Result<_> {
            let (status, _) = self.inner.getattr(ctx, inode, None)?;
            Ok((self.inner.readlinkat_proc_file(inode)?, status))
        };
        let ((file, file_status), (folder, folder_status)) = (known(inode)?, known(parent)?);
        let file = Known {
            path: &file,
            status: file_status,
        };
        let folder = Known {
            path: &folder,
            status: folder_status,
        };
        hard_link::make(&file, &folder, name)?;
        self.inner.lookup(ctx, parent, name)
    }

    pass! {
        fn forget(ctx: &Context, inode: u64, count: u64);
        fn batch_forget(ctx: &Context, requests: Vec<(u64, u64)>);
        fn getattr(ctx: &Context, inode: u64, handle: Option<u64>) -> io::Result<Attributes>;
        fn readlink(ctx: &Context, inode: u64) -> io::Result<Vec<u8>>;
        fn flush(ctx: &Context, inode: u64, handle: u64, owner: u64) -> io::Result<()>;
        fn fsync(ctx: &Context, inode: u64, data: bool, handle: u64) -> io::Result<()>;
        fn fsyncdir(ctx: &Context, inode: u64, data: bool, handle: u64) -> io::Result<()>;
        fn releasedir(ctx: &Context, inode: u64, flags: u32, handle: u64) -> io::Result<()>;
        fn statfs(ctx: &Context, inode: u64) -> io::Result<libc::statvfs64>;
        fn access(ctx: &Context, inode: u64, mask: u32) -> io::Result<()>;
        fn lseek(ctx: &Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64>;
        fn release(ctx: &Context, inode: u64, flags: u32, handle: u64, flush: bool, unlock: bool, owner: Option<u64>) -> io::Result<()>;
        fn read(ctx: &Context, inode: u64, handle: u64, to: &mut dyn ZeroCopyWriter, size: u32, offset: u64, owner: Option<u64>, flags: u32) -> io::Result<usize>;
    }

    pass_if! {
        fn lookup(self, ctx: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
            check_name(name).and_then(|()| self.check_room())
        }
        fn symlink(self, ctx: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
            self.check_new(name)
        }
        fn mkdir(self, ctx: &Context, parent: u64, name: &CStr, mode: u32, umask: u32) -> io::Result<Entry> {
            self.check_new(name).and_then(|()| check_mode(mode))
        }
        fn mknod(self, ctx: &Context, parent: u64, name: &CStr, mode: u32, rdev: u32, umask: u32) -> io::Result<Entry> {
            self.check_new(name).and_then(|()| match mode & libc::S_IFMT {
                0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => check_mode(mode),
                _ => refuse(libc::EPERM),
            })
        }
        fn unlink(self, ctx: &Context, parent: u64, name: &CStr) -> io::Result<()> {
            self.check_new(name)
        }
        fn rmdir(self, ctx: &Context, parent: u64, name: &CStr) -> io::Result<()> {
            self.check_new(name)
        }
        fn rename(self, ctx: &Context, from: u64, old: &CStr, to: u64, new: &CStr, flags: u32) -> io::Result<()> {
            self.check_new(old).and_then(|()| check_name(new)).and_then(|()| {
                // What would stay behind otherwise is a device node.
                match flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) {
                    0 => Ok(()),
                    _ => refuse(libc::EINVAL),
                }
            })
        }
        fn open(self, ctx: &Context, inode: u64, flags: u32, more: u32) -> io::Result<Opened> {
            self.check_open(flags)
        }
        fn create(self, ctx: &Context, parent: u64, name: &CStr, args: CreateIn) -> io::Result<Created> {
            self.check_new(name).and_then(|()| check_mode(args.mode))
        }
        fn write(self, ctx: &Context, inode: u64, handle: u64, from: &mut dyn ZeroCopyReader, size: u32, offset: u64, owner: Option<u64>, delayed: bool, flags: u32, more: u32) -> io::Result<usize> {
            self.check_writable()
        }
        fn fallocate(self, ctx: &Context, inode: u64, handle: u64, mode: u32, offset: u64, len: u64) -> io::Result<()> {
            self.check_writable()
        }
        fn opendir(self, ctx: &Context, inode: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
            self.check_open(flags)
        }
    }

    fn setattr(
        &self,
        ctx: &Context,
        inode: u64,
        attributes: libc::stat64,
        handle: Option<u64>,
        mut valid: SetattrValid,
    ) -> io::Result<Attributes> {
        self.check_writable()?;
        if valid.contains(SetattrValid::MODE) {
            check_mode(attributes.st_mode)?;
        }
        let (uid, gid) = (SetattrValid::UID, SetattrValid::GID);
        if valid.intersects(uid | gid) {
            let (now, _) = self.inner.getattr(ctx, inode, handle)?;
            let other_user = valid.contains(uid) && attributes.st_uid != now.st_uid;
            let other_group = valid.contains(gid) && attributes.st_gid != now.st_gid;
            if other_user || other_group {
                return refuse(libc::EPERM);
            }
            valid.remove(uid | gid);
        }
        self.inner.setattr(ctx, inode, attributes, handle, valid)
    }

    fn readdir(
        &self,
        ctx: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let size = size.min(MAX_LIST);
        self.inner
            .readdir(ctx, inode, handle, size, offset, add_entry)
    }

    fn readdirplus(
        &self,
        ctx: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.check_room()?;
        let size = size.min(MAX_LIST);
        self.inner
            .readdirplus(ctx, inode, handle, size, offset, add_entry)
    }
}
