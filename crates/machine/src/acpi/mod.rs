//! ACPI tables (ACPI specification 6.5) for the board, in the BIOS area.

mod dsdt;
mod fadt;
mod hotplug;
mod loader;
mod madt;
mod numa;
mod osc;
mod pci_root;
mod processors;
mod reduced;

pub use fadt::SCI;
pub use hotplug::SlotTree;
pub use reduced::GED_GSI;

use crate::boards::{BoardKind, ECAM_LEN};
use crate::cpu::Topology;
use crate::layout::{BIOS_AREA, SMBIOS_FIRST};
use crate::mmio::MmioPlace;
use crate::numa::{NodeRange, Numa};
use crate::ram::{GuestRam, NotRam};
use acpi_tables::{Aml, facs::FACS, mcfg::MCFG, rsdp::Rsdp, xsdt::XSDT};

const OEM_ID: [u8; 6] = *b"TRPZE ";
const OEM_TABLE_ID: [u8; 8] = *b"TRPZPC  ";
const OEM_REVISION: u32 = 1;

/// What the tables describe.
#[derive(Clone, Debug)]
pub struct Description<'a> {
    /// The board.
    pub board: &'static BoardKind,
    /// The processors.
    pub topology: Topology,
    /// They come and go.
    pub vcpus_change: bool,
    /// Those that are not there, by number.
    pub absent: &'a [u32],
    /// The PCI buses whose slots are filled and emptied.
    pub slots: &'a SlotTree,
    /// Serial ports: first I/O port and interrupt.
    pub serial: &'a [(u16, u32)],
    /// End of RAM below 4 GiB: PCI memory may start there.
    pub low_end: u64,
    /// Nodes; without any there are no tables of them.
    pub numa: &'a Numa,
    /// Their memory.
    pub node_ranges: &'a [NodeRange],
    /// Virtio devices over MMIO.
    pub mmio: &'a [MmioPlace],
}

/// Guest-physical address of the RSDP.
pub const RSDP: u64 = BIOS_AREA;
/// Tables start here; every one is aligned to [`ALIGN`], as the FACS must be.
const TABLES: u64 = BIOS_AREA + 0x40;
const ALIGN: u64 = 64;

/// Tables laid out one after the other.
struct Area {
    base: u64,
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table; returns its guest-physical address.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        let at = (self.bytes.len() as u64).next_multiple_of(ALIGN);
        self.bytes.resize(at as usize, 0);
        table.to_aml_bytes(&mut self.bytes);
        self.base + at
    }
}

/// The bytes of the BIOS area from [`RSDP`] on.
pub fn build(description: &Description) -> Vec<u8> {
    let mut area = Area {
        base: TABLES,
        bytes: Vec::new(),
    };
    let facs = area.add(&FACS::new());
    let dsdt = area.add(&dsdt::build(description));
    let fadt = area.add(&fadt::build(facs, dsdt, description.board.power));
    let madt = area.add(&madt::build(description));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let ecam = description.board.pci.as_ref().and_then(|pci| pci.ecam);
    if let Some(base) = ecam {
        let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        let last_bus = (ECAM_LEN >> 20) - 1;
        mcfg.add_ecam(base, 0, 0, last_bus as u8);
        xsdt.add_entry(area.add(&mcfg));
    }
    let Description {
        numa, node_ranges, ..
    } = description;
    if !numa.nodes.is_empty() {
        xsdt.add_entry(area.add(&numa::srat(numa, node_ranges, &description.topology)));
    }
    if !numa.distances.is_empty() {
        xsdt.add_entry(area.add(&numa::slit(numa)));
    }
    let xsdt = area.add(&xsdt);

    let mut all = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut all);
    all.resize((TABLES - RSDP) as usize, 0);
    all.extend(area.bytes);
    // At most 255 vCPUs of 8 bytes each: far below 96 KiB.
    assert!(all.len() as u64 <= SMBIOS_FIRST - RSDP);
    all
}

/// The bytes from [`RSDP`] on.
pub struct Tables(Vec<u8>);

/// Builds the tables and copies them to guest memory.
pub fn write(description: &Description, ram: &GuestRam) -> Result<Tables, NotRam> {
    let tables = build(description);
    ram.write(RSDP, &tables)?;
    Ok(Tables(tables))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::{BOARDS, PC, Q35};

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |a, b| a.wrapping_add(*b))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// The table at a guest-physical address, by its own length field.
    fn table(all: &[u8], gpa: u64) -> &[u8] {
        let at = (gpa - RSDP) as usize;
        let len = u32::from_le_bytes(all[at + 4..at + 8].try_into().unwrap());
        &all[at..at + len as usize]
    }

    /// A root bus, a bridge on it and one behind that.
    fn all_slots() -> SlotTree {
        let bus = |number, bridges| SlotTree {
            number,
            slots: !0xf,
            bridges,
        };
        let at = |slot| devices::pci::Address::new(slot, 0).unwrap();
        let inner = bus(2, Vec::new());
        bus(0, vec![(at(3), bus(1, vec![(at(2), inner)]))])
    }

    fn tables(board: &'static BoardKind, vcpus: u32) -> Vec<u8> {
        build(&Description {
            board,
            topology: Topology::of_cores(vcpus),
            vcpus_change: true,
            absent: &[],
            slots: &all_slots(),
            serial: &[(0x3f8, 4), (0x2f8, 3)],
            low_end: 1 << 30,
            numa: &Numa::default(),
            node_ranges: &[],
            mmio: &board.mmio_places(3),
        })
    }

    fn with_nodes(nodes: &[u64], cpus: &[u32]) -> Vec<u8> {
        let numa = Numa {
            nodes: nodes.to_vec(),
            cpus: cpus.to_vec(),
            distances: vec![vec![10; nodes.len()]; nodes.len()],
        };
        let total = nodes.iter().sum();
        let layout = crate::layout::Layout::new(total, 39, &Q35).unwrap();
        build(&Description {
            board: &Q35,
            topology: Topology::of_cores(cpus.len() as u32),
            vcpus_change: false,
            absent: &[],
            slots: &SlotTree::default(),
            serial: &[],
            low_end: layout.low_end,
            numa: &numa,
            node_ranges: &numa.ranges(&layout),
            mmio: &[],
        })
    }

    #[test]
    fn srat_and_slit_tell_nodes() {
        let all = with_nodes(&[512 << 20, 512 << 20], &[0, 1, 1]);
        let xsdt = table(&all, u64_at(&all, 24));
        let srat = table(&all, u64_at(xsdt, 60));
        assert_eq!((&srat[..4], sum(srat)), (&b"SRAT"[..], 0));
        let cpus: Vec<_> = srat[48..96].chunks(16).map(|c| (c[3], c[2])).collect();
        assert_eq!(cpus, [(0, 0), (1, 1), (2, 1)]);
        let memory: Vec<_> = srat[96..]
            .chunks(40)
            .map(|m| (m[0], m[1], m[2], u64_at(m, 8), u64_at(m, 16), m[28]))
            .collect();
        let expected = [
            (1, 40, 0, 0, 0xa_0000, 1),
            (1, 40, 0, 1 << 20, 511 << 20, 1),
            (1, 40, 1, 512 << 20, 512 << 20, 1),
        ];
        assert_eq!(memory, expected);
        let slit = table(&all, u64_at(xsdt, 68));
        assert_eq!(
            (&slit[..4], sum(slit), u64_at(slit, 36)),
            (&b"SLIT"[..], 0, 2)
        );
        assert_eq!(slit[44..], [10; 4]);
    }

    #[test]
    fn the_chain_from_rsdp_is_sound() {
        let all = tables(&PC, 2);
        assert_eq!(&all[..8], b"RSD PTR ");
        assert_eq!((sum(&all[..20]), sum(&all[..36])), (0, 0));
        let xsdt = table(&all, u64_at(&all, 24));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let fadt = table(&all, u64_at(xsdt, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        let madt = table(&all, u64_at(xsdt, 44));
        assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
        let dsdt = table(&all, u64_at(fadt, 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        let facs_gpa = u32::from_le_bytes(fadt[36..40].try_into().unwrap());
        assert_eq!(facs_gpa % 64, 0);
        assert_eq!(&table(&all, facs_gpa.into())[..4], b"FACS");
    }

    #[test]
    fn madt_lists_every_vcpu_and_the_overrides() {
        let all = tables(&PC, 3);
        let madt = {
            let xsdt = table(&all, u64_at(&all, 24));
            table(&all, u64_at(xsdt, 44))
        };
        let mut rows = Vec::new();
        let mut at = 44;
        while at < madt.len() {
            let len = usize::from(madt[at + 1]);
            rows.push(&madt[at..at + len]);
            at += len;
        }
        assert_eq!(at, madt.len());
        let ids: Vec<u8> = rows.iter().filter(|r| r[0] == 0).map(|r| r[3]).collect();
        assert_eq!(ids, [0, 1, 2]);
        // IRQ 0 is GSI 2; IRQ 9 (SCI) is level, active high.
        assert!(rows.contains(&&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0][..]));
        assert!(rows.contains(&&[2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0][..]));
    }

    #[test]
    fn largest_machine_fits() {
        for board in BOARDS {
            assert!(tables(board, 255).len() < 0x1_8000);
        }
        let nodes = [64 << 20; crate::numa::MAX_NODES];
        assert!(with_nodes(&nodes, &[127; 255]).len() < 0x1_8000);
    }

    #[test]
    fn mcfg_says_where_the_window_is() {
        let all = tables(&Q35, 1);
        let xsdt = table(&all, u64_at(&all, 24));
        let mcfg = table(&all, u64_at(xsdt, 52));
        assert_eq!((&mcfg[..4], sum(mcfg)), (&b"MCFG"[..], 0));
        assert_eq!(u64_at(mcfg, 44), 0xb000_0000);
        assert_eq!(&mcfg[52..56], [0, 0, 0, 0xff]);
        let of_pc = tables(&PC, 1);
        assert_eq!(table(&of_pc, u64_at(&of_pc, 24)).len(), 36 + 2 * 8);
    }
}
