//! Binary statistics (`KVM_GET_STATS_FD`): what `kvm_stat` shows.
#![allow(unsafe_code, reason = "an ioctl that kvm-ioctls does not wrap")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// Bytes of a descriptor before its name.
const DESC_BYTES: usize = 16;
/// Far above any kernel's number and length of names; a bound for hostile
/// or corrupt headers.
const MAX_DESCRIPTORS: usize = 1024;
const MAX_NAME: usize = 256;

/// The kernel's name and ours (the inventory's, which are kvm_stat's).
#[rustfmt::skip]
const COUNTERS: &[(&str, &str)] = &[
    ("exits", "exits"),
    ("halt_attempted_poll", "halt_attempted_poll"),
    ("halt_exits", "halt_exits"),
    ("halt_successful_poll", "halt_successful_poll"),
    ("halt_wakeup", "halt_wakeup"),
    ("host_state_reload", "host_state_reload"),
    ("hypercalls", "hypercalls"),
    ("insn_emulation", "insn_emulation"),
    ("insn_emulation_fail", "insn_emulation_fail"),
    ("invlpg", "invlpg"),
    ("io_exits", "io_exits"),
    ("irq_exits", "irq_exits"),
    ("irq_injections", "irq_injections"),
    ("irq_window_exits", "irq_window"),
    ("mmio_exits", "mmio_exits"),
    ("mmu_cache_miss", "mmu_cache_miss"),
    ("mmu_flooded", "mmu_flooded"),
    ("mmu_pde_zapped", "mmu_pde_zapped"),
    ("mmu_pte_write", "mmu_pte_write"),
    ("mmu_recycled", "mmu_recycled"),
    ("mmu_shadow_zapped", "mmu_shadow_zapped"),
    ("mmu_unsync", "mmu_unsync"),
    ("nmi_injections", "nmi_injections"),
    ("nmi_window_exits", "nmi_window"),
    ("pf_fixed", "pf_fixed"),
    ("pf_guest", "pf_guest"),
    ("remote_tlb_flush", "remote_tlb_flush"),
    ("request_irq_exits", "request_irq"),
    ("signal_exits", "signal_exits"),
    ("tlb_flush", "tlb_flush"),
];

/// A statistics file and where its counters are.
pub(crate) struct StatsFd {
    file: File,
    /// Our name and the counter's offset in the file.
    fields: Vec<(&'static str, u64)>,
}

impl StatsFd {
    /// None where the kernel has no binary statistics (before 5.14).
    pub(crate) fn open(fd: &impl AsRawFd) -> Option<Self> {
        // SAFETY: the ioctl takes no argument; `fd` is open for the call.
        let raw = unsafe { libc::ioctl(fd.as_raw_fd(), KVM_GET_STATS_FD) };
        if raw < 0 {
            return None;
        }
        // SAFETY: the kernel just returned this descriptor to us; nobody else
        // owns it.
        let file = unsafe { File::from_raw_fd(raw) };
        let fields = read_fields(&file)?;
        Some(Self { file, fields })
    }

    /// Adds every known counter to `sums`.
    pub(crate) fn add_to(&self, sums: &mut BTreeMap<&'static str, u64>) {
        for (name, offset) in &self.fields {
            let mut raw = [0; 8];
            if self.file.read_exact_at(&mut raw, *offset).is_ok() {
                *sums.entry(name).or_default() += u64::from_le_bytes(raw);
            }
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Header (`kvm_stats_header`) and descriptors (`kvm_stats_desc`).
fn read_fields(file: &File) -> Option<Vec<(&'static str, u64)>> {
    let mut header = [0; 24];
    file.read_exact_at(&mut header, 0).ok()?;
    let name_size = word(&header, 4)? as usize;
    let count = word(&header, 8)? as usize;
    let desc_offset = u64::from(word(&header, 16)?);
    let data_offset = u64::from(word(&header, 20)?);
    if count > MAX_DESCRIPTORS || name_size > MAX_NAME {
        return None;
    }
    let stride = DESC_BYTES + name_size;
    let mut descs = vec![0; stride * count];
    file.read_exact_at(&mut descs, desc_offset).ok()?;
    let mut fields = Vec::new();
    for desc in descs.chunks_exact(stride) {
        let name = desc[DESC_BYTES..].split(|b| *b == 0).next()?;
        let known = COUNTERS
            .iter()
            .find(|(theirs, _)| theirs.as_bytes() == name);
        if let Some((_, ours)) = known {
            fields.push((*ours, data_offset + u64::from(word(desc, 8)?)));
        }
    }
    Some(fields)
}
