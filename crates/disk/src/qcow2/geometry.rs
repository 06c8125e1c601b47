//! How a qcow2 image divides its file and its disk. Sections are those of
//! QEMU's "Qcow2 Image File Format".

/// Largest L1 table and largest refcount table, in bytes: QEMU's limits.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
pub(super) const MAX_REFTABLE_BYTES: u64 = 8 << 20;

/// Bits of a table entry that are an offset into the file.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// "The refcount is exactly one", in L1 and L2 entries.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros.
pub(super) const ZERO: u64 = 1;

/// Sizes that do not change while an image is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) cluster_bits: u32,
    /// A refcount has `1 << refcount_order` bits.
    pub(super) refcount_order: u32,
}

impl Geometry {
    pub(super) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Offset inside a cluster.
    pub(super) fn in_cluster(self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    /// The offset's cluster begins here.
    pub(super) fn cluster_start(self, offset: u64) -> u64 {
        offset & !(self.cluster_size() - 1)
    }

    /// Clusters that `bytes` take.
    pub(super) fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// Entries of an L2 table, as a power of two.
    pub(super) fn l2_bits(self) -> u32 {
        self.cluster_bits - 3
    }

    pub(super) fn l2_entries(self) -> u64 {
        1 << self.l2_bits()
    }

    /// Guest bytes under one L1 entry.
    pub(super) fn l1_span(self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits())
    }

    pub(super) fn l1_index(self, guest: u64) -> usize {
        (guest / self.l1_span()) as usize
    }

    pub(super) fn l2_index(self, guest: u64) -> u64 {
        (guest >> self.cluster_bits) & (self.l2_entries() - 1)
    }

    /// L1 entries for a disk of `size` bytes.
    pub(super) fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l1_span())
    }

    pub(super) fn refcount_bits(self) -> u32 {
        1 << self.refcount_order
    }

    /// Largest refcount.
    pub(super) fn refcount_max(self) -> u64 {
        u64::MAX >> (64 - self.refcount_bits())
    }

    /// Clusters that one refcount block describes.
    pub(super) fn refblock_entries(self) -> u64 {
        self.cluster_size() * 8 / u64::from(self.refcount_bits())
    }

    /// Bytes of the pieces in which L2 tables and refcount blocks are cached:
    /// a random access reads no more than this.
    pub(super) fn slice_size(self) -> u64 {
        self.cluster_size().min(4096)
    }

    /// What an L2 entry says. `Err` for one that no correct image has.
    pub(super) fn decode(self, entry: u64) -> Result<Entry, BadEntry> {
        if entry & COMPRESSED != 0 {
            let offset_bits = 62 - (self.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = ((entry & !(COPIED | COMPRESSED)) >> offset_bits) + 1;
            return Ok(Entry::Compressed {
                offset,
                len: sectors * 512 - offset % 512,
            });
        }
        let offset = entry & OFFSET_MASK;
        if self.in_cluster(offset) != 0 {
            return Err(BadEntry);
        }
        let copied = entry & COPIED != 0;
        Ok(match (entry & ZERO != 0, offset) {
            (false, 0) => Entry::Unallocated,
            (true, 0) => Entry::Zero,
            (true, _) => Entry::ZeroAllocated { offset, copied },
            (false, _) => Entry::Data { offset, copied },
        })
    }

    /// The entry of a compressed cluster.
    pub(super) fn encode_compressed(self, offset: u64, len: u64) -> u64 {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let sectors = (offset + len - 1) / 512 - offset / 512;
        COMPRESSED | (sectors << offset_bits) | offset
    }
}

/// An L2 entry that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadEntry;

/// What an L2 entry says of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The backing file's contents, or zeros.
    Unallocated,
    /// Zeros.
    Zero,
    /// Zeros; a host cluster is kept for later.
    ZeroAllocated { offset: u64, copied: bool },
    /// A host cluster. Only if `copied` may it be written to.
    Data { offset: u64, copied: bool },
    /// Compressed bytes in the file.
    Compressed { offset: u64, len: u64 },
}

/// Entry `index` of a table as it is in the file.
pub(super) fn entry_at(table: &[u8], index: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&table[index * 8..index * 8 + 8]);
    u64::from_be_bytes(bytes)
}

pub(super) fn set_entry(table: &mut [u8], index: usize, entry: u64) {
    table[index * 8..index * 8 + 8].copy_from_slice(&entry.to_be_bytes());
}

/// A table in the file's byte order.
pub(super) fn to_bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|e| e.to_be_bytes()).collect()
}

/// Entries looked at together. The format allows tables of four million, of
/// which images use few.
const PIECE: usize = 512;
const ZEROS: [u64; PIECE] = [0; PIECE];

/// A table from the file's byte order.
pub(super) fn from_bytes(bytes: &[u8]) -> Vec<u64> {
    let mut entries = vec![0; bytes.len() / 8];
    let pieces = entries.chunks_mut(PIECE).zip(bytes.chunks(PIECE * 8));
    for (entries, bytes) in pieces.filter(|(_, bytes)| bytes[..] != [0; PIECE * 8][..bytes.len()]) {
        for (index, entry) in entries.iter_mut().enumerate() {
            *entry = entry_at(bytes, index);
        }
    }
    entries
}

/// The entries that are not zero, each with its index.
pub(super) fn in_use(table: &[u64]) -> impl Iterator<Item = (usize, u64)> {
    let pieces = table.chunks(PIECE).enumerate();
    let used = pieces.filter(|(_, piece)| piece[..] != ZEROS[..piece.len()]);
    let entries = used.flat_map(|(number, piece)| {
        let first = number * PIECE;
        piece
            .iter()
            .enumerate()
            .map(move |(index, &e)| (first + index, e))
    });
    entries.filter(|&(_, entry)| entry != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_entries_round_trip() {
        for cluster_bits in 9..=21 {
            let g = Geometry {
                cluster_bits,
                refcount_order: 4,
            };
            for (offset, len) in [(0x12345, 1), (0x12345, 300), (0x10000, 512), (0x101ff, 2)] {
                let entry = g.encode_compressed(offset, len);
                let Ok(Entry::Compressed { offset: o, len: l }) = g.decode(entry) else {
                    panic!("not compressed");
                };
                assert_eq!(o, offset);
                // Up to the end of the last sector.
                assert!(l >= len && l < len + 512 && (o + l).is_multiple_of(512));
            }
        }
    }

    #[test]
    fn entries_are_told_apart() {
        let g = Geometry {
            cluster_bits: 16,
            refcount_order: 4,
        };
        let (offset, copied) = (0x50000, true);
        assert_eq!(g.decode(0), Ok(Entry::Unallocated));
        assert_eq!(g.decode(1), Ok(Entry::Zero));
        assert_eq!(
            g.decode(COPIED | 0x50000),
            Ok(Entry::Data { offset, copied })
        );
        assert_eq!(
            g.decode(COPIED | 0x50001),
            Ok(Entry::ZeroAllocated { offset, copied })
        );
        assert_eq!(g.decode(0x50200), Err(BadEntry));
    }

    #[test]
    fn sizes_follow_the_format() {
        let g = Geometry {
            cluster_bits: 16,
            refcount_order: 4,
        };
        assert_eq!((g.l2_entries(), g.l1_span()), (8192, 512 << 20));
        assert_eq!((g.refblock_entries(), g.refcount_max()), (32768, 65535));
        assert_eq!(g.l1_entries((512 << 20) + 1), 2);
    }

    #[test]
    fn tables_survive_both_ways_and_zeros_are_passed_over() {
        for len in [0, 1, PIECE - 1, PIECE, 3 * PIECE + 7] {
            let mut table = vec![0; len];
            assert_eq!(in_use(&table).count(), 0);
            let used = [0, PIECE - 1, PIECE, 3 * PIECE + 6];
            let used: Vec<usize> = used.into_iter().filter(|&at| at < len).collect();
            for &at in &used {
                table[at] = at as u64 + 1;
            }
            let found: Vec<_> = in_use(&table).collect();
            let wanted: Vec<_> = used.iter().map(|&at| (at, at as u64 + 1)).collect();
            assert_eq!(found, wanted);
            assert_eq!(from_bytes(&to_bytes(&table)), table);
        }
    }
}
