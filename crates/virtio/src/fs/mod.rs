//! File system device (virtio 1.2, 5.11): a folder of the host, shared with
//! the guest by FUSE. The server is `fuse-backend-rs`; what the guest may ask
//! it for is [`confined::Confined`]'s matter.

mod confined;
mod hard_link;
mod own_umask;
#[cfg(test)]
mod tests;

use crate::chain::Chain;
use crate::crew::{Crew, Turn};
use crate::device::{Activation, Kind, VirtioDevice, copy_config};
use crate::queue::Broken;
use crate::workers::Workers;
use confined::Confined;
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The type.
pub const KIND: Kind = Kind {
    name: "virtio-fs",
    id: 26,
    pci_id: 0x105a,
    class: 0x01_80_00,
};

/// Bytes of a tag (5.11.4).
pub const TAG_LEN: usize = 36;
/// QEMU's default.
pub const DEFAULT_QUEUE_SIZE: u16 = 128;
/// Most bytes of a request and of its answer; the server tells the driver to
/// stay below 1 MiB and a header.
const MAX_REQUEST: usize = 2 << 20;
/// Bytes of the configuration: the tag and the number of request queues.
const CONFIG_LEN: usize = TAG_LEN + 4;

/// A folder that is shared.
#[derive(Clone, Debug)]
pub struct Share {
    folder: Arc<File>,
    read_only: bool,
}

impl Share {
    /// Opens the folder: what is renamed or mounted over it later does not
    /// matter.
    ///
    /// # Errors
    /// It is not there, no folder, or not to be read or entered.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let folder = File::open(path)?;
        if !folder.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        std::fs::metadata(path.join("."))?;
        Ok(Self {
            folder: Arc::new(folder),
            read_only,
        })
    }
}

/// What a device is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the guest mounts: at most [`TAG_LEN`] bytes count.
    pub tag: String,
    /// Request queues, 1 or more.
    pub queues: u16,
    /// Size of each queue, a power of two.
    pub queue_size: u16,
}

/// The device.
pub struct Fs {
    share: Share,
    options: Options,
    server: Mutex<Option<Arc<Server<Confined>>>>,
    workers: Arc<Workers>,
}

impl Fs {
    /// A device for a folder.
    pub fn new(share: Share, options: Options) -> Self {
        Self {
            share,
            options,
            server: Mutex::default(),
            workers: Arc::default(),
        }
    }
}

/// Serves a request.
fn serve(server: &Server<Confined>, chain: Chain<'_>) -> Result<u32, Broken> {
    own_umask::ensure();
    let broken = |_| Broken("a file system request is not in guest memory");
    let (memory, descriptors) = chain.origin();
    let reader = Reader::from_descriptor_chain(memory, descriptors.clone()).map_err(broken)?;
    let writer = VirtioFsWriter::new(memory, descriptors.clone()).map_err(broken)?;
    // Some of the server's buffers are as large as the request. The driver may
    // have changed the chain since it was checked, but not these any more.
    if reader.available_bytes().max(writer.available_bytes()) > MAX_REQUEST {
        return Err(Broken("a file system request is too large"));
    }
    match server.handle_message(reader, Writer::from(writer), None, None) {
        Ok(written) => Ok(u32::try_from(written).unwrap_or(u32::MAX)),
        Err(error) => {
            // As often as the guest likes, so only for those who ask.
            log::debug!(target: "guest_errors", "virtio-fs: {error}");
            Ok(refuse(chain))
        }
    }
}

/// Answers EINVAL to what the server can make no sense of, if it has a header
/// and room for another (`fuse_in_header`, `fuse_out_header`); the bytes
/// written.
fn refuse(mut chain: Chain<'_>) -> u32 {
    let mut request = [0; 40];
    if !chain.take_header(&mut request) || chain.writable_len() < 16 {
        return 0;
    }
    let mut answer = [0; 16];
    answer[..4].copy_from_slice(&16u32.to_le_bytes());
    answer[4..8].copy_from_slice(&(-libc::EINVAL).to_le_bytes());
    answer[8..].copy_from_slice(&request[8..16]);
    chain.fill(&answer) as u32
}

impl VirtioDevice for Fs {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn features(&self) -> u64 {
        0
    }

    /// One for what must not wait (FUSE_FORGET), then those of requests.
    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.options.queue_size; usize::from(self.options.queues) + 1]
    }

    fn config_len(&self) -> usize {
        CONFIG_LEN
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        let mut config = [0; CONFIG_LEN];
        let tag = self.options.tag.bytes().take(TAG_LEN);
        config.iter_mut().zip(tag).for_each(|(to, from)| *to = from);
        config[TAG_LEN..].copy_from_slice(&u32::from(self.options.queues).to_le_bytes());
        copy_config(&config, offset, bytes);
    }

    fn activate(&self, activation: Activation) -> io::Result<()> {
        let server = Arc::new(Server::new(Confined::new(&self.share)?));
        *self.server.lock() = Some(server.clone());
        for queue in activation.queues {
            let server = server.clone();
            let act = Box::new(move |chain: Chain<'_>, _: &Turn<'_>| serve(&server, chain));
            Crew::start(KIND.name, queue, &self.workers, act)?;
        }
        Ok(())
    }

    /// What the guest has open only the host's kernel knows: only a device
    /// without a driver can be saved, and any other is named.
    fn suspend(&self) -> bool {
        self.server.lock().is_none()
    }

    fn reset(&self) {
        self.workers.stop();
        *self.server.lock() = None;
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        // The threads hold the workers, too.
        self.workers.stop();
    }
}
