//! The CPUID table of one vCPU: what the backend offers, with the leaves that
//! depend on the vCPU and the topology filled in. One socket, one thread per
//! core.

use crate::config::MachineConfig;
use hv::abi::kvm_cpuid_entry2;

const BASIC: u32 = 1;
const CACHES: u32 = 4;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const EXT_FEATURES: u32 = 0x8000_0001;
const EXT_POWER: u32 = 0x8000_0007;
const EXT_SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;

/// Leaf 1 EDX: more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 1 ECX: running under a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// 0x8000_0001 ECX: HTT means cores; topology extensions.
const CMP_LEGACY: u32 = 1 << 1;
const TOPOEXT: u32 = 1 << 22;
/// 0x8000_0007 EDX: invariant TSC.
const INVARIANT_TSC: u32 = 1 << 8;

/// Level types of leaf 0xb (SDM vol 2, CPUID).
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// The table for the vCPU with APIC id `id` of `config`'s machine.
pub fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    id: u32,
    config: &MachineConfig,
) -> Vec<kvm_cpuid_entry2> {
    let vcpus = config.vcpus;
    let is_amd = supported
        .iter()
        .any(|e| e.function == 0 && e.ebx == u32::from_le_bytes(*b"Auth"));
    let drop_leaf = |e: &&kvm_cpuid_entry2| {
        !matches!(
            e.function,
            TOPOLOGY | TOPOLOGY_V2 | AMD_CACHES | AMD_TOPOLOGY
        )
    };
    let mut table: Vec<_> = supported.iter().filter(drop_leaf).copied().collect();
    for entry in &mut table {
        adjust(entry, id, vcpus, is_amd);
        if entry.function == EXT_POWER && !config.invariant_tsc {
            entry.edx &= !INVARIANT_TSC;
        }
    }
    let max_basic = supported
        .iter()
        .find(|e| e.function == 0)
        .map_or(0, |e| e.eax);
    if max_basic >= TOPOLOGY {
        table.extend(topology_leaf(id, vcpus));
    }
    table
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u32, vcpus: u32, is_amd: bool) {
    match entry.function {
        BASIC => {
            // CLFLUSH size and brand index stay.
            entry.ebx = entry.ebx & 0xffff | vcpus.min(255) << 16 | (id & 0xff) << 24;
            entry.ecx |= HYPERVISOR;
            entry.edx = if vcpus > 1 {
                entry.edx | HTT
            } else {
                entry.edx & !HTT
            };
        }
        // Cache type 0 ends the list.
        CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { id_space(vcpus) - 1 } else { 0 };
            let cores = id_space(vcpus).min(64) - 1;
            entry.eax = entry.eax & 0x3fff | sharing.min(0xfff) << 14 | cores << 26;
        }
        EXT_FEATURES => {
            entry.ecx &= !(CMP_LEGACY | TOPOEXT);
            if is_amd && vcpus > 1 {
                entry.ecx |= CMP_LEGACY;
            }
        }
        EXT_SIZES if is_amd => {
            entry.ecx = (vcpus.min(256) - 1) | (id_bits(vcpus) << 12);
        }
        _ => {}
    }
}

/// Bits that hold every APIC id.
fn id_bits(vcpus: u32) -> u32 {
    u32::BITS - vcpus.saturating_sub(1).leading_zeros()
}

fn id_space(vcpus: u32) -> u32 {
    1 << id_bits(vcpus)
}

/// Leaf 0xb: a level of threads (one), a level of cores, an end mark.
fn topology_leaf(id: u32, vcpus: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, kind| kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index,
        flags: hv::abi::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | kind,
        edx: id,
        ..Default::default()
    };
    [
        level(0, 0, 1, LEVEL_SMT),
        level(1, id_bits(vcpus), vcpus, LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, regs: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = regs;
        kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    fn find(table: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
        let e = table
            .iter()
            .find(|e| e.function == function && e.index == index);
        let e = e.unwrap();
        [e.eax, e.ebx, e.ecx, e.edx]
    }

    fn of(vcpus: u32) -> MachineConfig {
        MachineConfig {
            vcpus,
            ..MachineConfig::default()
        }
    }

    fn intel() -> Vec<kvm_cpuid_entry2> {
        vec![
            leaf(0, 0, [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
            leaf(1, 0, [0x5_0654, 0x0b40_0800, 0, HTT]),
            leaf(4, 0, [0x1c00_4121, 0x01c0_003f, 0x3f, 0]),
            leaf(4, 3, [0x1c03_c163, 0x0280_003f, 0xafff, 0]),
            leaf(4, 4, [0, 0, 0, 0]),
            leaf(0xb, 0, [1, 2, 0x100, 0x99]),
            leaf(
                0x4000_0000,
                0,
                [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
            ),
        ]
    }

    #[test]
    fn one_vcpu() {
        let table = for_vcpu(&intel(), 0, &of(1));
        assert_eq!(find(&table, 1, 0), [0x5_0654, 0x0001_0800, HYPERVISOR, 0]);
        assert_eq!(find(&table, 4, 3)[0], 0x163);
        assert_eq!(find(&table, 0xb, 1), [0, 1, 0x201, 0]);
        assert_eq!(find(&table, 0x4000_0000, 0)[1], 0x4b4d_564b);
    }

    #[test]
    fn third_of_six() {
        let table = for_vcpu(&intel(), 2, &of(6));
        assert_eq!(find(&table, 1, 0)[1], 0x0206_0800);
        assert_eq!(find(&table, 1, 0)[3], HTT);
        // Ids need three bits: eight id slots, the last-level cache shared.
        assert_eq!(find(&table, 4, 0)[0], 0x1c00_0121);
        assert_eq!(find(&table, 4, 3)[0], 0x1c01_c163);
        assert_eq!(find(&table, 4, 4)[0], 0);
        assert_eq!(find(&table, 0xb, 0), [0, 1, 0x100, 2]);
        assert_eq!(find(&table, 0xb, 1), [3, 6, 0x201, 2]);
        assert_eq!(find(&table, 0xb, 2), [0, 0, 2, 2]);
        assert_eq!(table.iter().filter(|e| e.function == 0xb).count(), 3);
    }

    #[test]
    fn amd_counts_cores_in_its_own_leaves() {
        let supported = [
            leaf(0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            leaf(0x8000_0001, 0, [0, 0, TOPOEXT, 0]),
            leaf(0x8000_0008, 0, [0x3030, 0, 0x4007, 0]),
            leaf(0x8000_001e, 0, [7, 0x103, 0, 0]),
        ];
        let table = for_vcpu(&supported, 1, &of(4));
        assert_eq!(find(&table, 0x8000_0001, 0)[2], CMP_LEGACY);
        assert_eq!(find(&table, 0x8000_0008, 0)[2], 0x2003);
        assert!(!table.iter().any(|e| e.function == 0x8000_001e));
    }

    #[test]
    fn the_tsc_is_invariant_only_if_asked_for() {
        let supported = [leaf(EXT_POWER, 0, [0, 0, 0, INVARIANT_TSC | 1])];
        let table = for_vcpu(&supported, 0, &of(1));
        assert_eq!(find(&table, EXT_POWER, 0)[3], 1);
        let asked = MachineConfig {
            invariant_tsc: true,
            ..of(1)
        };
        let table = for_vcpu(&supported, 0, &asked);
        assert_eq!(find(&table, EXT_POWER, 0)[3], INVARIANT_TSC | 1);
    }
}
