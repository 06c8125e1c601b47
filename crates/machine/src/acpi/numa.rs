//! System Resource Affinity Table (ACPI 6.5, 5.2.16) and System Locality
//! Information Table (5.2.17).

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::cpu::Topology;
use crate::numa::{NodeRange, Numa};
use acpi_tables::sdt::Sdt;

const HEADER: u32 = 36;
const ENABLED: u32 = 1;

/// Which processor and which memory is in which node.
pub fn srat(numa: &Numa, ranges: &[NodeRange], topology: &Topology) -> Sdt {
    let mut srat = Sdt::new(*b"SRAT", HEADER, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    // Reserved; the first field is 1 for what read revision 1.
    srat.append_slice(&1u32.to_le_bytes());
    srat.append_slice(&[0; 8]);
    for (id, node) in topology.apic_ids().zip(&numa.cpus) {
        srat.append_slice(&[0, 16, *node as u8, id as u8]);
        srat.append_slice(&ENABLED.to_le_bytes());
        srat.append_slice(&[0; 8]);
    }
    for range in ranges {
        srat.append_slice(&[1, 40]);
        srat.append_slice(&range.node.to_le_bytes());
        srat.append_slice(&[0; 2]);
        srat.append_slice(&range.gpa.to_le_bytes());
        srat.append_slice(&range.size.to_le_bytes());
        srat.append_slice(&[0; 4]);
        srat.append_slice(&ENABLED.to_le_bytes());
        srat.append_slice(&[0; 8]);
    }
    srat
}

/// How far nodes are from each other.
pub fn slit(numa: &Numa) -> Sdt {
    let mut slit = Sdt::new(*b"SLIT", HEADER, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    slit.append_slice(&(numa.distances.len() as u64).to_le_bytes());
    numa.distances.iter().for_each(|row| slit.append_slice(row));
    slit
}
