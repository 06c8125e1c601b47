//! Compressed clusters: raw deflate streams, packed one after the other.

use super::Qcow2;
use super::geometry::Entry;
use crate::buffer::Source;
use crate::device::within;
use crate::errno::{Errno, IoResult};
use crate::storage::StorageExt;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// QEMU unpacks with a window of 4 KiB, so the stream must not look further
/// back.
const WINDOW_BITS: u8 = 12;

/// A cluster from its packed form, which may be followed by other bytes.
pub(super) fn unpack(packed: &[u8], cluster_size: usize) -> IoResult<Vec<u8>> {
    let mut out = vec![0; cluster_size];
    let mut stream = Decompress::new(false);
    let end = stream.decompress(packed, &mut out, FlushDecompress::Finish);
    // The stream may be longer than the cluster needs.
    match end {
        Ok(_) if stream.total_out() == cluster_size as u64 => Ok(out),
        _ => Err(Errno::EIO),
    }
}

/// The packed form of a cluster, if that is shorter.
pub(super) fn pack(cluster: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; cluster.len() - 1];
    let mut stream = Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS);
    match stream.compress(cluster, &mut out, FlushCompress::Finish) {
        Ok(Status::StreamEnd) => {
            out.truncate(stream.total_out() as usize);
            Some(out)
        }
        _ => None,
    }
}

impl Qcow2 {
    /// Writes a cluster's contents in compressed form, if that is shorter and
    /// the cluster has no contents yet; as they are otherwise. Fewer bytes
    /// than a cluster are accepted at the end of the disk.
    ///
    /// # Errors
    /// As for writes; `EINVAL` if it is not a cluster.
    pub fn write_compressed(&self, bytes: &[u8], offset: u64) -> IoResult<()> {
        let _open = self.gate.read();
        self.writable()?;
        let g = self.geometry;
        let len = bytes.len() as u64;
        let end = within(offset, len, self.size())?;
        let whole = len == g.cluster_size() || end == self.size();
        if g.in_cluster(offset) != 0 || len > g.cluster_size() || !whole {
            return Err(Errno::EINVAL);
        }
        let mut cluster = bytes.to_vec();
        cluster.resize(g.cluster_size() as usize, 0);
        match pack(&cluster) {
            Some(packed) => self.write_packed(&packed, bytes, offset),
            None => self.write_guest(&[Source::from(bytes)], offset),
        }
    }

    fn write_packed(&self, packed: &[u8], bytes: &[u8], guest: u64) -> IoResult<()> {
        let g = self.geometry;
        {
            let _claim = self.claims.claim(guest, guest + g.cluster_size());
            let old = self.map(guest, bytes.len() as u64)?.entry;
            if matches!(old, Entry::Unallocated | Entry::Zero) {
                self.own_table(guest)?;
                self.mark_dirty()?;
                let len = packed.len() as u64;
                let place = self.refcounts.lock().allocate_bytes(self, len)?;
                let entry = g.encode_compressed(place, len);
                let result = self
                    .file
                    .write_at(packed, place)
                    .and_then(|()| self.link(guest, 1, |_, _| entry, false));
                if result.is_err() {
                    let first = place >> g.cluster_bits;
                    self.release(first, g.clusters(place + len) - first);
                }
                return result;
            }
        }
        self.write_guest(&[Source::from(bytes)], guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_survive_packing() {
        let cluster: Vec<u8> = (0..65536u32).map(|n| (n / 700) as u8).collect();
        let mut packed = pack(&cluster).expect("it is regular");
        assert!(packed.len() < 4096);
        packed.extend_from_slice(&[0xff; 100]);
        assert!(unpack(&packed, 65536) == Ok(cluster));
    }

    #[test]
    fn garbage_is_an_error() {
        assert_eq!(unpack(&[0xff; 512], 65536), Err(Errno::EIO));
        assert_eq!(unpack(&[], 512), Err(Errno::EIO));
        let short = pack(&[0; 512]).expect("it is regular");
        assert_eq!(unpack(&short, 65536), Err(Errno::EIO));
    }

    #[test]
    fn what_cannot_be_packed_is_not() {
        let mut state = 1u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        let cluster: Vec<u8> = (0..512).map(|_| random()).collect();
        assert_eq!(pack(&cluster), None);
    }
}
