//! New images.

use super::geometry::{Geometry, MAX_L1_BYTES, set_entry};
use super::header::{Header, LAZY_REFCOUNTS};
use super::refcounts::write_count;
use super::{BackingName, Qcow2, Qcow2Options};
use crate::device::{BlockDevice, Preallocation};
use crate::errno::{Errno, Error, IoResult, Result};
use crate::storage::{Storage, StorageExt};
use std::sync::Arc;

/// What a new image is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Size of the disk in bytes.
    pub size: u64,
    /// 2 or 3.
    pub version: u32,
    /// Bytes.
    pub cluster_size: u64,
    /// Width of a refcount.
    pub refcount_bits: u32,
    /// Refcounts may be wrong until the image is closed.
    pub lazy_refcounts: bool,
    /// Space for the contents.
    pub preallocation: Preallocation,
    /// Backing file, as it is to be written.
    pub backing: Option<BackingName>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: 0,
            version: 3,
            cluster_size: 65536,
            refcount_bits: 16,
            lazy_refcounts: false,
            preallocation: Preallocation::Off,
            backing: None,
        }
    }
}

impl CreateOptions {
    /// Judges what is asked for.
    ///
    /// # Errors
    /// It contradicts itself.
    pub fn judge(&self) -> Result<()> {
        self.geometry().map(|_| ())
    }

    fn geometry(&self) -> Result<Geometry> {
        let cluster_size = self.cluster_size;
        if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
            return Err(Error::invalid(
                "Cluster size must be a power of two between 512 and 2048k",
            ));
        }
        if self.lazy_refcounts && self.version < 3 {
            return Err(Error::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                 version=v3 or greater)",
            ));
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return Err(Error::invalid(
                "Refcount width must be a power of two and may not exceed 64 bits",
            ));
        }
        if self.version < 3 && self.refcount_bits != 16 {
            return Err(Error::invalid(
                "Different refcount widths than 16 bits require compatibility level 1.1 or \
                 above (use version=v3 or greater)",
            ));
        }
        if self.backing.is_some() && self.preallocation != Preallocation::Off {
            return Err(Error::invalid(
                "Backing file and preallocation can only be used at the same time if \
                 extended_l2 is on",
            ));
        }
        let geometry = Geometry {
            cluster_bits: cluster_size.trailing_zeros(),
            refcount_order: self.refcount_bits.trailing_zeros(),
        };
        if geometry.l1_entries(self.size) * 8 > MAX_L1_BYTES {
            return Err(Error::new(
                Errno(libc::EFBIG),
                "The image size is too large for file format 'qcow2' (try using a larger \
                 cluster size)",
            ));
        }
        Ok(geometry)
    }
}

/// Makes a new image in an empty file.
///
/// # Errors
/// What is asked for cannot be, or the host's.
pub fn create(file: Arc<dyn Storage>, options: &CreateOptions) -> Result<()> {
    let geometry = options.geometry()?;
    let header = Header {
        version: options.version,
        geometry,
        size: 0,
        l1_entries: 0,
        l1_offset: 0,
        reftable_offset: geometry.cluster_size(),
        reftable_clusters: 1,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: if options.lazy_refcounts {
            LAZY_REFCOUNTS
        } else {
            0
        },
        autoclear: 0,
        unknown_fields: vec![0; 8],
        backing: options.backing.clone(),
        unknown_extensions: Vec::new(),
    };
    let cluster = header.to_cluster()?;
    write_empty(&*file, geometry, &cluster)
        .map_err(|e| Error::io("Could not write qcow2 header", e))?;
    // Growing makes the L1 table. The backing file stays out of it: the new
    // image shows it through all of its size.
    let image = Qcow2::open(file, Qcow2Options::default())?;
    image
        .resize(options.size, options.preallocation)
        .and_then(|()| image.close())
        .map_err(|e| Error::io("Could not resize image", e))
}

/// An image of size 0: header, refcount table and one refcount block.
fn write_empty(file: &dyn Storage, g: Geometry, header: &[u8]) -> IoResult<()> {
    let size = g.cluster_size();
    let mut table = vec![0; size as usize];
    set_entry(&mut table, 0, 2 * size);
    let mut block = vec![0; size as usize];
    for cluster in 0..3 {
        write_count(&mut block, cluster, g.refcount_order, 1);
    }
    file.write_at(&table, size)?;
    file.write_at(&block, 2 * size)?;
    file.flush()?;
    file.write_at(header, 0)?;
    file.flush()
}
