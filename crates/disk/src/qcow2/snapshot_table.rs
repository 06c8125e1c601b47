//! The table of internal snapshots, as bytes.

use super::geometry::{Geometry, MAX_L1_BYTES, entry_at};
use super::header::Header;
use crate::errno::{Error, Result};
use crate::storage::{Storage, StorageExt};

/// QEMU's limits.
const MAX_TABLE: usize = 64 << 20;
const MAX_EXTRA: usize = 1024;

const FIXED: usize = 40;

/// A snapshot, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Number as a string; unique.
    pub id: String,
    /// Given by the user.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub seconds: u32,
    /// And nanoseconds.
    pub nanoseconds: u32,
    /// How long the guest had run, in nanoseconds.
    pub guest_time: u64,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// Size of the disk then.
    pub disk_size: u64,
    /// Instructions executed, if somebody counted.
    pub icount: Option<u64>,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u32,
    /// Extra data that we do not know.
    pub(super) unknown: Vec<u8>,
}

/// Reads the table that a header names.
pub(super) fn read(file: &dyn Storage, header: &Header) -> Result<Vec<Snapshot>> {
    let mut all = Vec::new();
    let mut at = header.snapshots_offset;
    for _ in 0..header.snapshots {
        let (snapshot, len) = read_one(file, header, at)?;
        at += len as u64;
        if at - header.snapshots_offset > MAX_TABLE as u64 {
            return Err(Error::invalid("Snapshot table is too big"));
        }
        all.push(snapshot);
    }
    Ok(all)
}

/// Bytes that the table takes.
pub(super) fn table_len(snapshots: &[Snapshot]) -> u64 {
    to_bytes(snapshots).len() as u64
}

fn read_one(file: &dyn Storage, header: &Header, at: u64) -> Result<(Snapshot, usize)> {
    let read = |buffer: &mut [u8], at| {
        file.read_at(buffer, at)
            .map_err(|e| Error::io("Failed to read snapshot table", e))
    };
    let mut fixed = [0; FIXED];
    read(&mut fixed, at)?;
    let u16_at = |n: usize| usize::from(u16::from_be_bytes([fixed[n], fixed[n + 1]]));
    let u32_at = |n: usize| (entry_at(&fixed[n - 4..], 0) & 0xffff_ffff) as u32;
    let (id_len, name_len) = (u16_at(12), u16_at(14));
    let extra_len = u32_at(36) as usize;
    if extra_len > MAX_EXTRA {
        return Err(Error::invalid(
            "Too much extra metadata in snapshot table entry",
        ));
    }
    let mut rest = vec![0; extra_len + id_len + name_len];
    read(&mut rest, at + FIXED as u64)?;
    let (extra, names) = rest.split_at(extra_len);
    let extra_u64 = |n: usize| (extra.len() >= n + 8).then(|| entry_at(&extra[n..], 0));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let snapshot = Snapshot {
        id: text(&names[..id_len]),
        name: text(&names[id_len..]),
        seconds: u32_at(16),
        nanoseconds: u32_at(20),
        guest_time: entry_at(&fixed[24..], 0),
        vm_state_size: extra_u64(0).unwrap_or(u32_at(32).into()),
        disk_size: extra_u64(8).unwrap_or(header.size),
        icount: extra_u64(16).filter(|n| *n != u64::MAX),
        l1_offset: entry_at(&fixed, 0),
        l1_entries: u32_at(8),
        unknown: extra.get(24..).unwrap_or_default().to_vec(),
    };
    Ok((snapshot, (FIXED + rest.len()).next_multiple_of(8)))
}

/// Judges the place of a snapshot's L1 table.
pub(super) fn l1_is_sane(snapshot: &Snapshot, g: Geometry) -> bool {
    let bytes = u64::from(snapshot.l1_entries) * 8;
    bytes <= MAX_L1_BYTES
        && g.in_cluster(snapshot.l1_offset) == 0
        && snapshot.l1_offset.checked_add(bytes).is_some()
}

/// The table as it is in the file.
pub(super) fn to_bytes(snapshots: &[Snapshot]) -> Vec<u8> {
    let mut out = Vec::new();
    for s in snapshots {
        out.extend_from_slice(&s.l1_offset.to_be_bytes());
        out.extend_from_slice(&s.l1_entries.to_be_bytes());
        out.extend_from_slice(&(s.id.len() as u16).to_be_bytes());
        out.extend_from_slice(&(s.name.len() as u16).to_be_bytes());
        out.extend_from_slice(&s.seconds.to_be_bytes());
        out.extend_from_slice(&s.nanoseconds.to_be_bytes());
        out.extend_from_slice(&s.guest_time.to_be_bytes());
        let short = u32::try_from(s.vm_state_size).unwrap_or(0);
        out.extend_from_slice(&short.to_be_bytes());
        out.extend_from_slice(&(24 + s.unknown.len() as u32).to_be_bytes());
        out.extend_from_slice(&s.vm_state_size.to_be_bytes());
        out.extend_from_slice(&s.disk_size.to_be_bytes());
        out.extend_from_slice(&s.icount.unwrap_or(u64::MAX).to_be_bytes());
        out.extend_from_slice(&s.unknown);
        out.extend_from_slice(s.id.as_bytes());
        out.extend_from_slice(s.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}
