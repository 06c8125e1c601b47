//! NUMA nodes: which memory and which processors are near each other. Guests
//! hear of it from ACPI; the host's memory is as it is.

use crate::config::MachineConfig;
use crate::layout::{CONVENTIONAL_END, HIGH_RAM, Layout, ONE_MIB};
use crate::outcome::{Error, Result};

/// Most nodes of a machine, QEMU's.
pub const MAX_NODES: usize = 128;
/// Distance of a node to itself (ACPI 6.5, 5.2.17).
pub const LOCAL: u8 = 10;

/// The nodes; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numa {
    /// Bytes of RAM of each node, in the order of the addresses.
    pub nodes: Vec<u64>,
    /// The node of each processor, by the processor's number.
    pub cpus: Vec<u32>,
    /// Distances, a row for each node they are from; none if empty.
    pub distances: Vec<Vec<u8>>,
}

/// A piece of a node's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRange {
    /// The node.
    pub node: u32,
    /// Guest-physical start.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
}

impl Numa {
    /// RAM by nodes, lowest first; without what the VGA window and the BIOS
    /// hide.
    pub fn ranges(&self, layout: &Layout) -> Vec<NodeRange> {
        // Pieces of RAM: offset in RAM, guest-physical start, size.
        let pieces = [
            (0, 0, CONVENTIONAL_END),
            (ONE_MIB, ONE_MIB, layout.low_end - ONE_MIB),
            (layout.low_end, HIGH_RAM, layout.high_end - HIGH_RAM),
        ];
        let mut ranges = Vec::new();
        let mut first = 0;
        for (node, &size) in (0..).zip(&self.nodes) {
            let end = first + size;
            ranges.extend(pieces.iter().filter_map(|&(offset, gpa, len)| {
                let (from, to) = (first.max(offset), end.min(offset + len));
                (from < to).then(|| NodeRange {
                    node,
                    gpa: gpa + (from - offset),
                    size: to - from,
                })
            }));
            first = end;
        }
        ranges
    }

    /// Every byte and every processor is in a node that there is.
    pub(crate) fn check(&self, config: &MachineConfig) -> Result<()> {
        let count = self.nodes.len();
        if count == 0 {
            return Ok(());
        }
        let refuse = |why: String| Err(Error::Numa(why));
        if count > MAX_NODES {
            return refuse(format!("{count} nodes; there can be {MAX_NODES}"));
        }
        let total = self.nodes.iter().fold(0u64, |a, &b| a.saturating_add(b));
        if total != config.ram_bytes {
            let ram = config.ram_bytes;
            return refuse(format!(
                "the nodes have {total} bytes of memory, the machine {ram}"
            ));
        }
        if self.cpus.len() as u64 != u64::from(config.topology.vcpus())
            || self.cpus.iter().any(|&node| node as usize >= count)
        {
            return refuse("every processor must be in a node".into());
        }
        let rows = &self.distances;
        let square = rows.len() == count && rows.iter().all(|row| row.len() == count);
        match rows.is_empty() || square {
            true => Ok(()),
            false => refuse("distances must be given between all nodes".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::PC;

    const MIB: u64 = 1 << 20;

    /// As QEMU 10's SRAT has it for `-m 4G` and nodes of 3584 and 512 MiB.
    #[test]
    fn ranges_go_around_the_holes() {
        let layout = Layout::new(4 << 30, 39, &PC).unwrap();
        let numa = Numa {
            nodes: vec![3584 * MIB, 512 * MIB],
            ..Numa::default()
        };
        let rows: Vec<_> = numa
            .ranges(&layout)
            .iter()
            .map(|r| (r.node, r.gpa, r.gpa + r.size - 1))
            .collect();
        let expected = [
            (0, 0, 0x9_ffff),
            (0, 0x10_0000, 0xbfff_ffff),
            (0, 0x1_0000_0000, 0x1_1fff_ffff),
            (1, 0x1_2000_0000, 0x1_3fff_ffff),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn nodes_that_do_not_add_up_are_refused() {
        let config = MachineConfig::default();
        let good = Numa {
            nodes: vec![64 * MIB, 64 * MIB],
            cpus: vec![1],
            distances: vec![vec![10, 20], vec![20, 10]],
        };
        assert!(good.check(&config).is_ok());
        let bad = [
            Numa {
                nodes: vec![64 * MIB, 65 * MIB],
                ..good.clone()
            },
            Numa {
                nodes: vec![u64::MAX; 2],
                ..good.clone()
            },
            Numa {
                cpus: vec![2],
                ..good.clone()
            },
            Numa {
                cpus: Vec::new(),
                ..good.clone()
            },
            Numa {
                distances: vec![vec![10, 20]],
                ..good.clone()
            },
            Numa {
                nodes: vec![MIB; 129],
                ..good
            },
        ];
        for numa in bad {
            assert!(numa.check(&config).is_err(), "{numa:?}");
        }
    }
}
