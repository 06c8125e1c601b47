//! Where things are in guest-physical memory. RAM begins at address 0, with a
//! hole for the VGA window; how much of it lies below 4 GiB is the board's
//! choice, the rest lies from there on.

use crate::boards::BoardKind;
use crate::outcome::{Error, Result};

/// 4 KiB.
pub const PAGE: u64 = 4096;
/// Start of high RAM.
pub const HIGH_RAM: u64 = 4 << 30;
/// End of conventional memory; the last KiB is the EBDA.
pub const CONVENTIONAL_END: u64 = 0xa_0000;
/// Extended BIOS data area.
pub const EBDA: u64 = 0x9_fc00;
/// End of the VGA window.
pub const VGA_END: u64 = 0xc_0000;
/// BIOS area: ACPI tables live here, where kernels search for the RSDP.
pub const BIOS_AREA: u64 = 0xe_0000;
/// SMBIOS tables lie at the end of the BIOS area, from here on.
pub const SMBIOS_FIRST: u64 = 0xf_8000;
/// End of the first MiB.
pub const ONE_MIB: u64 = 0x10_0000;
/// Local APIC.
pub const LAPIC: u32 = 0xfee0_0000;
/// I/O APIC.
pub const IOAPIC: u32 = 0xfec0_0000;

/// Scratch pages of the boot protocols, all in conventional memory that the
/// kernel may reuse.
pub mod boot {
    /// Global descriptor table.
    pub const GDT: u64 = 0x500;
    /// PVH start info, module list and memory map.
    pub const PVH_INFO: u64 = 0x6000;
    /// Linux boot parameters ("zero page").
    pub const ZERO_PAGE: u64 = 0x7000;
    /// Initial stack, growing down from here.
    pub const STACK: u64 = 0x8ff0;
    /// PML4, PDPT and four page directories: identity for 4 GiB.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// Command line, up to [`CMDLINE_MAX`] bytes with its NUL.
    pub const CMDLINE: u64 = 0x2_0000;
    /// Room for the command line.
    pub const CMDLINE_MAX: usize = 0x1_0000;
}

/// Smallest machine: BIOS area plus one page of extended memory.
const RAM_MIN: u64 = ONE_MIB + PAGE;

/// A piece of RAM: guest-physical start, size, and offset in the backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// Guest-physical start.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// Offset of its first byte in the host mapping.
    pub offset: u64,
}

/// The split of `-m` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// End of RAM below 4 GiB.
    pub low_end: u64,
    /// End of RAM above 4 GiB; [`HIGH_RAM`] if there is none.
    pub high_end: u64,
    /// What the board reserves besides.
    reserved: &'static [(u64, u64)],
}

/// What a range of the memory map is (e820 types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Usable.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
}

/// One row of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Guest-physical start.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// Type.
    pub kind: MapKind,
}

impl Layout {
    /// Splits `bytes` of RAM on a board whose processors have `phys_bits`
    /// address bits.
    pub fn new(bytes: u64, phys_bits: u8, board: &BoardKind) -> Result<Self> {
        let refuse = |why: String| Err(Error::Ram { bytes, why });
        let size = bytes & !(PAGE - 1);
        if size < RAM_MIN {
            return refuse(format!("the smallest machine has {} KiB", RAM_MIN >> 10));
        }
        let limit = 1u64.checked_shl(phys_bits.into()).unwrap_or(u64::MAX);
        let low = match size < board.low_ram.whole {
            true => size,
            false => board.low_ram.split,
        };
        let high = size - low;
        if high > limit.saturating_sub(HIGH_RAM) {
            return refuse(format!(
                "more than the {phys_bits}-bit guest-physical address space holds"
            ));
        }
        Ok(Self {
            low_end: low,
            high_end: HIGH_RAM + high,
            reserved: board.reserved,
        })
    }

    /// Bytes of the backing mapping. The VGA window's part is never mapped
    /// into the guest.
    pub fn backing_size(&self) -> u64 {
        self.low_end + (self.high_end - HIGH_RAM)
    }

    /// RAM as memory slots, lowest first.
    pub fn ranges(&self) -> Vec<RamRange> {
        let range = |gpa, end: u64, offset| RamRange {
            gpa,
            size: end - gpa,
            offset,
        };
        let all = [
            range(0, CONVENTIONAL_END, 0),
            range(VGA_END, self.low_end, VGA_END),
            range(HIGH_RAM, self.high_end, self.low_end),
        ];
        all.into_iter().filter(|r| r.size > 0).collect()
    }

    /// The memory map for the kernel.
    pub fn map(&self) -> Vec<MapEntry> {
        use MapKind::{Ram, Reserved};
        let entry = |gpa, end: u64, kind| MapEntry {
            gpa,
            size: end - gpa,
            kind,
        };
        let reserved = self.reserved.iter();
        let reserved = reserved.map(|&(first, end)| entry(first, end, Reserved));
        let mut all = vec![
            entry(0, EBDA, Ram),
            entry(EBDA, CONVENTIONAL_END, Reserved),
            entry(BIOS_AREA, ONE_MIB, Reserved),
            entry(ONE_MIB, self.low_end, Ram),
            // Pages that hardware virtualization keeps for itself on some
            // hosts, and the flash of a PC.
            entry(0xfeff_c000, 0xff00_0000, Reserved),
            entry(0xfffc_0000, HIGH_RAM, Reserved),
            entry(HIGH_RAM, self.high_end, Ram),
        ];
        all.extend(reserved);
        all.retain(|e| e.size > 0);
        all.sort_by_key(|e| e.gpa);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::{BOARDS, PC, Q35};

    #[test]
    fn splits_where_qemus_boards_do() {
        let small = Layout::new(1 << 30, 39, &PC).unwrap();
        assert_eq!((small.low_end, small.high_end), (1 << 30, HIGH_RAM));
        assert_eq!(small.ranges().len(), 2);
        let large = Layout::new(5 << 30, 39, &PC).unwrap();
        assert_eq!((large.low_end, large.high_end), (3 << 30, 6 << 30));
        assert_eq!(large.ranges()[2].offset, 3 << 30);
        assert_eq!(large.backing_size(), 5 << 30);
        let odd = Layout::new((64 << 20) + 4095, 39, &PC).unwrap();
        assert_eq!(odd.low_end, 64 << 20);
        // As QEMU 10's e820 tables have it: MiB of RAM, of it below 4 GiB.
        let rows: [(&BoardKind, u64, u64); 5] = [
            (&PC, 3300, 3300),
            (&PC, 3583, 3583),
            (&PC, 3584, 3072),
            (&Q35, 2815, 2815),
            (&Q35, 2816, 2048),
        ];
        for (board, all, low) in rows {
            let layout = Layout::new(all << 20, 39, board).unwrap();
            assert_eq!(layout.low_end, low << 20, "{} {all}", board.name);
            assert_eq!(layout.backing_size(), all << 20);
        }
    }

    #[test]
    fn refuses_extremes() {
        for bytes in [0, 1, 4096, 1 << 20] {
            assert!(Layout::new(bytes, 39, &PC).is_err(), "{bytes}");
        }
        // 39 bits: 512 GiB of addresses, 4 GiB of them below high RAM.
        let most = (512u64 << 30) - (4 << 30) + (3 << 30);
        assert!(Layout::new(most, 39, &PC).is_ok());
        assert!(Layout::new(most + PAGE, 39, &PC).is_err());
        assert!(Layout::new(u64::MAX, 52, &PC).is_err());
    }

    #[test]
    fn the_map_is_sorted_and_covers_ram_once() {
        for board in BOARDS {
            let layout = Layout::new(5 << 30, 46, board).unwrap();
            let map = layout.map();
            for pair in map.windows(2) {
                assert!(pair[0].gpa + pair[0].size <= pair[1].gpa);
            }
            let ram = map.iter().filter(|e| e.kind == MapKind::Ram);
            let total: u64 = ram.map(|e| e.size).sum();
            // All RAM but the EBDA and what lies behind the VGA window and
            // BIOS.
            assert_eq!(total, (5 << 30) - (ONE_MIB - EBDA));
        }
    }
}
