//! A driver of the device, and the folder it mounts.

use super::super::*;
use crate::testing::{BUFFERS, Rig, WRITE};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::{Bytes, GuestAddress};

/// Requests, as linux/fuse.h numbers them.
pub(super) mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const RENAME2: u32 = 45;
}

/// Bytes of the headers of a request and of its answer.
pub(super) const REQUEST_HEADER: usize = 40;
pub(super) const ANSWER_HEADER: usize = 16;
/// Where answers go, and how long they may be.
pub(super) const ANSWER: u64 = BUFFERS + 0x8000;
pub(super) const ANSWER_LEN: u32 = 0x8000;

/// What follows a request's header.
#[derive(Clone, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn new() -> Self {
        Self::default()
    }
    pub(super) fn word(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }
    pub(super) fn long(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    /// A name with its zero.
    pub(super) fn name(self, name: &str) -> Self {
        self.bytes(name.as_bytes()).bytes(&[0])
    }
}

/// The node of an answer that describes a file.
pub(super) fn node(answer: &[u8]) -> u64 {
    u64::from_le_bytes(answer[..8].try_into().unwrap())
}

/// The file mode of such an answer.
pub(super) fn mode(answer: &[u8]) -> u32 {
    u32::from_le_bytes(answer[100..104].try_into().unwrap())
}

/// A mounted device. Its folder is `inside` of one that has other things, too.
pub(super) struct Guest {
    pub(super) rig: Rig,
    pub(super) fs: Arc<Fs>,
    outer: PathBuf,
}

impl Guest {
    pub(super) fn new() -> Self {
        Self::with(false)
    }

    pub(super) fn with(read_only: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("trapeze-fs-{}-{number}", std::process::id());
        let outer = std::env::temp_dir().join(name);
        std::fs::create_dir_all(outer.join("inside")).unwrap();
        let share = Share::open(&outer.join("inside"), read_only).unwrap();
        let options = Options {
            tag: "folder".into(),
            queues: 3,
            queue_size: 8,
        };
        let fs = Arc::new(Fs::new(share, options));
        let guest = Self {
            rig: Rig::new(fs.clone()),
            fs,
            outer,
        };
        guest.mount();
        guest
    }

    /// Brings the device up, and the file system with FUSE_INIT.
    pub(super) fn mount(&self) {
        self.rig.start_queue(1, 0);
        let init = Body::new().word(7).word(38).word(1 << 17).word(0);
        let answer = self.call(op::INIT, 0, init).unwrap();
        assert_eq!(answer[..4], 7u32.to_le_bytes());
    }

    /// Of the host, in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.outer.join("inside").join(name)
    }

    /// Of the host, beside it.
    pub(super) fn outside(&self, name: &str) -> PathBuf {
        self.outer.join(name)
    }

    /// Writes a request; its length.
    pub(super) fn request(&self, opcode: u32, node: u64, body: &Body) -> u32 {
        let len = (REQUEST_HEADER + body.0.len()) as u32;
        let header = Body::new().word(len).word(opcode).long(42).long(node);
        // User, group and process, which do not matter; padding.
        let header = header.word(1000).word(1000).word(1).word(0);
        let bytes = header.bytes(&body.0).0;
        let at = GuestAddress(BUFFERS);
        self.rig.memory.write_slice(&bytes, at).unwrap();
        len
    }

    /// Sends a request; what follows the answer's header, or its error.
    pub(super) fn call(&self, opcode: u32, node: u64, body: Body) -> Result<Vec<u8>, i32> {
        let len = self.request(opcode, node, &body);
        let chain = [(BUFFERS, len, 0), (ANSWER, ANSWER_LEN, WRITE)];
        let used = self.rig.serve(&chain) as usize;
        assert!(used >= ANSWER_HEADER, "no answer to {opcode}");
        let mut answer = vec![0; used];
        let at = GuestAddress(ANSWER);
        self.rig.memory.read_slice(&mut answer, at).unwrap();
        let word = |i: usize| i32::from_le_bytes(answer[i..i + 4].try_into().unwrap());
        assert_eq!((word(0), word(8)), (used as i32, 42));
        match word(4) {
            0 => Ok(answer.split_off(ANSWER_HEADER)),
            error => Err(-error),
        }
    }

    pub(super) fn lookup(&self, parent: u64, name: &str) -> Result<u64, i32> {
        let answer = self.call(op::LOOKUP, parent, Body::new().name(name))?;
        Ok(node(&answer))
    }

    pub(super) fn open(&self, node: u64, flags: i32) -> Result<u64, i32> {
        let body = Body::new().word(flags as u32).word(0);
        self.call(op::OPEN, node, body).map(|a| self::node(&a))
    }

    pub(super) fn read(&self, node: u64, file: u64, size: u32) -> Result<Vec<u8>, i32> {
        let body = Body::new().long(file).long(0).word(size).word(0);
        let flags = libc::O_RDWR as u32;
        self.call(op::READ, node, body.long(0).word(flags).word(0))
    }

    /// Writes at the start; how many bytes.
    pub(super) fn write(&self, node: u64, file: u64, bytes: &[u8]) -> Result<u32, i32> {
        let body = Body::new().long(file).long(0).word(bytes.len() as u32);
        let flags = libc::O_RDWR as u32;
        let body = body.word(0).long(0).word(flags).word(0).bytes(bytes);
        let answer = self.call(op::WRITE, node, body)?;
        Ok(u32::from_le_bytes(answer[..4].try_into().unwrap()))
    }

    /// Names in a folder, in many requests.
    pub(super) fn list(&self, folder: u64) -> Vec<String> {
        let opened = self.call(op::OPENDIR, folder, Body::new().word(0).word(0));
        let handle = node(&opened.unwrap());
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let body = Body::new().long(handle).long(offset).word(1000).word(0);
            let body = body.long(0).word(0).word(0);
            let bytes = self.call(op::READDIR, folder, body).unwrap();
            if bytes.is_empty() {
                return names;
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let len = u32::from_le_bytes(rest[16..20].try_into().unwrap()) as usize;
                offset = node(&rest[8..16]);
                names.push(String::from_utf8(rest[24..24 + len].to_vec()).unwrap());
                rest = &rest[(24 + len).next_multiple_of(8)..];
            }
        }
    }

    /// A request that changes mode, owner or size: `valid` is FATTR_*.
    pub(super) fn change(&self, node: u64, valid: u32, value: u32) -> Result<Vec<u8>, i32> {
        let body = Body::new().word(valid).word(0).long(0).long(value.into());
        let times = body.long(0).long(0).long(0).long(0).word(0).word(0).word(0);
        let body = times.word(value).word(0).word(value).word(value).word(0);
        self.call(op::SETATTR, node, body)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // What cannot be removed shows in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.outer);
    }
}
