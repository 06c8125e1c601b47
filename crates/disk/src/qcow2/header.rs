//! The header cluster: fixed fields, extensions, the backing file's name.

use super::BackingName;
use super::geometry::{Geometry, MAX_L1_BYTES, MAX_REFTABLE_BYTES};
use crate::errno::{Errno, Error, IoResult, Result};
use crate::storage::{Storage, StorageExt};

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Incompatible features.
pub(super) const DIRTY: u64 = 1 << 0;
pub(super) const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// Compatible features.
pub(super) const LAZY_REFCOUNTS: u64 = 1 << 0;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;

const V2_LEN: usize = 72;
const V3_LEN: usize = 112;
const MAX_BACKING_NAME: usize = 1023;
const MAX_SNAPSHOTS: u32 = 65536;

/// (type, bit, name) of the features, written for programs that do not know
/// them.
const FEATURES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) geometry: Geometry,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    pub(super) l1_entries: u32,
    pub(super) l1_offset: u64,
    pub(super) reftable_offset: u64,
    pub(super) reftable_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    /// Bytes of the fixed part that we do not know, from 104 on.
    pub(super) unknown_fields: Vec<u8>,
    pub(super) backing: Option<BackingName>,
    /// Extensions we do not know, to be kept.
    pub(super) unknown_extensions: Vec<(u32, Vec<u8>)>,
}

/// Big-endian fields at offsets.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_be_bytes(bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        super::geometry::entry_at(&self.0[at..], 0)
    }
}

impl Header {
    /// Reads and judges the header.
    pub(super) fn read(file: &dyn Storage) -> Result<Self> {
        let mut head = [0; V3_LEN];
        file.read_at(&mut head, 0).map_err(unreadable)?;
        if head[..4] != MAGIC {
            return Err(Error::invalid("Image is not in qcow2 format"));
        }
        let fields = Fields(&head);
        let cluster_bits = fields.u32(20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::invalid(format!(
                "Unsupported cluster size: 2^{cluster_bits}"
            )));
        }
        let mut cluster = vec![0; 1 << cluster_bits];
        file.read_at(&mut cluster, 0).map_err(unreadable)?;
        Self::parse(&cluster)
    }

    fn parse(cluster: &[u8]) -> Result<Self> {
        let fields = Fields(cluster);
        let version = fields.u32(4);
        if !(2..=3).contains(&version) {
            return Err(Error::unsupported(format!(
                "Unsupported qcow2 version {version}"
            )));
        }
        let v3 = version == 3;
        let header_len = if v3 { fields.u32(100) as usize } else { V2_LEN };
        if v3 && header_len < 104 {
            return Err(Error::invalid("qcow2 header too short"));
        }
        if header_len > cluster.len() {
            return Err(Error::invalid("qcow2 header exceeds cluster size"));
        }
        let refcount_order = if v3 { fields.u32(96) } else { 4 };
        if refcount_order > 6 {
            return Err(Error::invalid(
                "Reference count entry width too large; may not exceed 64 bits",
            ));
        }
        let v3_field = |at: usize| if v3 { fields.u64(at) } else { 0 };
        let mut header = Self {
            version,
            geometry: Geometry {
                cluster_bits: fields.u32(20),
                refcount_order,
            },
            size: fields.u64(24),
            l1_entries: fields.u32(36),
            l1_offset: fields.u64(40),
            reftable_offset: fields.u64(48),
            reftable_clusters: fields.u32(56),
            snapshots: fields.u32(60),
            snapshots_offset: fields.u64(64),
            incompatible: v3_field(72),
            compatible: v3_field(80),
            autoclear: v3_field(88),
            unknown_fields: cluster[104.min(header_len)..header_len].to_vec(),
            backing: None,
            unknown_extensions: Vec::new(),
        };
        if fields.u32(32) != 0 {
            return Err(Error::unsupported("Encrypted images are not supported"));
        }
        header.parse_backing(&fields, cluster, header_len)?;
        header.judge_features()?;
        header.judge_tables()?;
        Ok(header)
    }

    fn parse_backing(&mut self, fields: &Fields, cluster: &[u8], header_len: usize) -> Result<()> {
        let offset = fields.u64(8);
        let len = fields.u32(16) as usize;
        // Extensions end where the name begins.
        let limit = match offset {
            0 => cluster.len(),
            n if n > cluster.len() as u64 => {
                return Err(Error::invalid("Invalid backing file offset"));
            }
            n => n as usize,
        };
        let format = self.parse_extensions(&cluster[..limit], header_len)?;
        if offset == 0 {
            return Ok(());
        }
        if len > MAX_BACKING_NAME || limit + len > cluster.len() {
            return Err(Error::invalid("Backing file name too long"));
        }
        let name = String::from_utf8(cluster[limit..limit + len].to_vec())
            .map_err(|_| Error::unsupported("The backing file's name is not UTF-8"))?;
        self.backing = Some(BackingName { name, format });
        Ok(())
    }

    /// Reads the extensions; the backing file's format if there is one.
    fn parse_extensions(&mut self, area: &[u8], mut at: usize) -> Result<Option<String>> {
        let mut format = None;
        while at + 8 <= area.len() {
            let fields = Fields(&area[at..]);
            let (kind, len) = (fields.u32(0), fields.u32(4) as usize);
            if kind == END {
                break;
            }
            let data = area.get(at + 8..).and_then(|a| a.get(..len));
            let data = data.ok_or_else(|| Error::invalid("Header extension too large"))?;
            match kind {
                BACKING_FORMAT => {
                    let name = data.split(|b| *b == 0).next().unwrap_or_default();
                    format = Some(String::from_utf8_lossy(name).into_owned());
                }
                // Written anew.
                FEATURE_NAMES => {}
                _ => self.unknown_extensions.push((kind, data.to_vec())),
            }
            at += 8 + len.next_multiple_of(8);
        }
        Ok(format)
    }

    fn judge_features(&self) -> Result<()> {
        let unsupported = |what: &str| Err(Error::unsupported(what.to_string()));
        if self.incompatible & DATA_FILE != 0 {
            return unsupported("External data files are not supported");
        }
        if self.incompatible & COMPRESSION != 0 {
            return unsupported("Compression type 'zstd' is not supported");
        }
        if self.incompatible & EXTENDED_L2 != 0 {
            return unsupported("Extended L2 entries are not supported");
        }
        let unknown = self.incompatible & !(DIRTY | CORRUPT);
        if unknown != 0 {
            return unsupported(&format!(
                "Unsupported qcow2 feature(s): Unknown incompatible feature: {unknown:x}"
            ));
        }
        Ok(())
    }

    fn judge_tables(&self) -> Result<()> {
        let g = self.geometry;
        let entries = u64::from(self.l1_entries);
        let too_big = |text: &str| Err(Error::new(Errno(libc::EFBIG), text));
        if entries * 8 > MAX_L1_BYTES {
            return too_big("Active L1 table too large");
        }
        if g.l1_entries(self.size) > i32::MAX as u64 {
            return too_big("Image is too big");
        }
        if entries < g.l1_entries(self.size) {
            return Err(Error::invalid("L1 table is too small"));
        }
        let reftable_bytes = u64::from(self.reftable_clusters) * g.cluster_size();
        if self.reftable_clusters == 0 {
            return Err(Error::invalid(
                "Image does not contain a reference count table",
            ));
        }
        if reftable_bytes > MAX_REFTABLE_BYTES {
            return Err(Error::invalid("Image contains too large a refcount table"));
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(Error::invalid("Snapshot table too large"));
        }
        let place = |offset: u64, bytes: u64, what: &str| {
            let inside = offset.checked_add(bytes).is_some_and(|e| e < 1 << 62);
            match g.in_cluster(offset) == 0 && inside {
                true => Ok(()),
                false => Err(Error::invalid(format!("{what} offset invalid"))),
            }
        };
        place(
            self.reftable_offset,
            reftable_bytes,
            "Reference count table",
        )?;
        place(self.snapshots_offset, 0, "Snapshot table")?;
        place(self.l1_offset, entries * 8, "Active L1 table")
    }

    /// It has persistent bitmaps, which every write would have to keep.
    pub(super) fn has_bitmaps(&self) -> bool {
        self.unknown_extensions.iter().any(|(k, _)| *k == BITMAPS)
    }

    /// The whole header cluster.
    ///
    /// # Errors
    /// The backing file's name is too long for it.
    pub(super) fn to_cluster(&self) -> Result<Vec<u8>> {
        let size = self.geometry.cluster_size() as usize;
        let name = self.backing.as_ref().map_or("", |b| &b.name);
        let too_long = || Error::invalid("Backing file name too long");
        if name.len() > MAX_BACKING_NAME {
            return Err(too_long());
        }
        let mut out = self.fixed_part();
        if let Some(format) = self.backing.as_ref().and_then(|b| b.format.as_ref()) {
            push_extension(&mut out, BACKING_FORMAT, format.as_bytes());
        }
        for (kind, data) in &self.unknown_extensions {
            push_extension(&mut out, *kind, data);
        }
        let names = feature_names();
        if self.version >= 3 && out.len() + 16 + names.len() + name.len() <= size {
            push_extension(&mut out, FEATURE_NAMES, &names);
        }
        push_extension(&mut out, END, &[]);
        if !name.is_empty() {
            let at = out.len() as u64;
            out[8..16].copy_from_slice(&at.to_be_bytes());
            out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        if out.len() > size {
            return Err(too_long());
        }
        out.resize(size, 0);
        Ok(out)
    }

    /// Writes sizes, places and features into a file that has the rest of
    /// this header already.
    pub(super) fn write_numbers(&self, file: &dyn Storage) -> IoResult<()> {
        const SIZE: usize = 24;
        let end = if self.version >= 3 { 96 } else { V2_LEN };
        file.write_at(&self.fixed_part()[SIZE..end], SIZE as u64)
    }

    fn fixed_part(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(V3_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.version.to_be_bytes());
        // Name of the backing file: filled in when its place is known.
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&self.geometry.cluster_bits.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        // No encryption.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.l1_entries.to_be_bytes());
        out.extend_from_slice(&self.l1_offset.to_be_bytes());
        out.extend_from_slice(&self.reftable_offset.to_be_bytes());
        out.extend_from_slice(&self.reftable_clusters.to_be_bytes());
        out.extend_from_slice(&self.snapshots.to_be_bytes());
        out.extend_from_slice(&self.snapshots_offset.to_be_bytes());
        if self.version < 3 {
            return out;
        }
        out.extend_from_slice(&self.incompatible.to_be_bytes());
        out.extend_from_slice(&self.compatible.to_be_bytes());
        out.extend_from_slice(&self.autoclear.to_be_bytes());
        out.extend_from_slice(&self.geometry.refcount_order.to_be_bytes());
        let mut rest = self.unknown_fields.clone();
        rest.resize(rest.len().next_multiple_of(8).max(V3_LEN - 104), 0);
        let header_len = (104 + rest.len()) as u32;
        out.extend_from_slice(&header_len.to_be_bytes());
        out.extend_from_slice(&rest);
        out
    }
}

fn unreadable(errno: Errno) -> Error {
    Error::io("Could not read qcow2 header", errno)
}

fn push_extension(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn feature_names() -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, bit, name) in FEATURES {
        let start = out.len();
        out.extend_from_slice(&[kind, bit]);
        out.extend_from_slice(name.as_bytes());
        out.resize(start + 48, 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u32, cluster_bits: u32) -> Header {
        Header {
            version,
            geometry: Geometry {
                cluster_bits,
                refcount_order: 4,
            },
            size: 1 << 30,
            l1_entries: 1 << 15,
            l1_offset: 3 << cluster_bits,
            reftable_offset: 1 << cluster_bits,
            reftable_clusters: 1,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            unknown_fields: if version == 3 { vec![0; 8] } else { vec![] },
            backing: None,
            unknown_extensions: vec![],
        }
    }

    #[test]
    fn headers_round_trip() {
        for version in [2, 3] {
            for bits in [9, 16, 21] {
                let mut h = header(version, bits);
                assert_eq!(Header::parse(&h.to_cluster().expect("fits")), Ok(h.clone()));
                h.unknown_extensions.push((0x1234, vec![1, 2, 3]));
                h.backing = Some(BackingName {
                    name: "base.img".into(),
                    format: Some("raw".into()),
                });
                assert_eq!(Header::parse(&h.to_cluster().expect("fits")), Ok(h));
            }
        }
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let mut h = header(3, 9);
        h.backing = Some(BackingName {
            name: "x".repeat(512 - 112 - 8),
            format: None,
        });
        assert!(h.to_cluster().is_ok());
        h.backing = Some(BackingName {
            name: "x".repeat(512 - 112 - 7),
            format: None,
        });
        assert!(h.to_cluster().is_err());
    }

    #[test]
    fn what_we_cannot_read_is_named() {
        let parse = |change: fn(&mut Header)| {
            let mut h = header(3, 16);
            change(&mut h);
            let cluster = h.to_cluster().expect("fits");
            Header::parse(&cluster)
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        assert_eq!(parse(|_| ()), Ok(()));
        let refused = |text: &str| Err(text.to_string());
        assert_eq!(
            parse(|h| h.incompatible = EXTENDED_L2),
            refused("Extended L2 entries are not supported")
        );
        assert_eq!(
            parse(|h| h.incompatible = 1 << 40),
            refused("Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000000")
        );
        assert_eq!(
            parse(|h| h.l1_entries = 1),
            refused("L1 table is too small")
        );
        assert_eq!(
            parse(|h| h.l1_offset = 5),
            refused("Active L1 table offset invalid")
        );
        assert_eq!(
            parse(|h| h.reftable_clusters = u32::MAX),
            refused("Image contains too large a refcount table")
        );
    }
}
