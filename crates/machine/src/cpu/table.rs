//! The CPUID table of one vCPU: what the backend offers, cut to the model and
//! the features asked for, with the leaves that depend on the vCPU and the
//! topology filled in.

use super::models::Identity;
use super::{CpuConfig, FEATURES, Topology};
use hv::abi::kvm_cpuid_entry2;

const VENDOR: u32 = 0;
const BASIC: u32 = 1;
const CACHES: u32 = 4;
const TOPOLOGY: u32 = 0xb;
const XSTATE: u32 = 0xd;
const TOPOLOGY_V2: u32 = 0x1f;
const HYPERVISOR_LEAVES: u32 = 0x4000_0000;
const FREQUENCIES: u32 = 0x4000_0010;
const EXT_FEATURES: u32 = 0x8000_0001;
const BRAND: u32 = 0x8000_0002;
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

/// Level types of leaf 0xb (SDM vol 2, CPUID).
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// Features asked for by name that the accelerator does not offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(pub Vec<&'static str>);

/// Features of the model that the accelerator does not offer. The error names
/// those that were asked for one by one, or all if the model is to be enforced.
pub fn missing(
    supported: &[kvm_cpuid_entry2],
    cpu: &CpuConfig,
) -> Result<Vec<&'static str>, Unsupported> {
    let offered = |name: &str| {
        FEATURES
            .iter()
            .any(|f| f.name == name && f.is_in(supported))
    };
    let asked = cpu.changes.iter().filter(|(_, on)| *on);
    let refused: Vec<_> = asked
        .map(|(f, _)| f.name)
        .filter(|name| !offered(name))
        .collect();
    if !refused.is_empty() {
        return Err(Unsupported(refused));
    }
    let switched_off = |name| cpu.changes.iter().any(|(f, on)| f.name == name && !on);
    let named = cpu.model.features.is_some();
    let missing: Vec<_> = FEATURES
        .iter()
        .map(|f| f.name)
        .filter(|name| named && cpu.model.has(name) && !offered(name) && !switched_off(*name))
        .collect();
    match cpu.enforce && !missing.is_empty() {
        true => Err(Unsupported(missing)),
        false => Ok(missing),
    }
}

/// The table for vCPU `index` of a machine.
pub fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    index: u32,
    cpu: &CpuConfig,
    topology: &Topology,
) -> Vec<kvm_cpuid_entry2> {
    let drop_leaf = |e: &&kvm_cpuid_entry2| {
        !matches!(
            e.function,
            TOPOLOGY | TOPOLOGY_V2 | AMD_CACHES | AMD_TOPOLOGY
        )
    };
    let mut table: Vec<_> = supported.iter().filter(drop_leaf).copied().collect();
    apply_model(&mut table, cpu);
    let vendor = table.iter().find(|e| e.function == VENDOR);
    let is_amd = vendor.is_some_and(|e| e.ebx == u32::from_le_bytes(*b"Auth"));
    let max_basic = vendor.map_or(0, |e| e.eax);
    let id = topology.apic_id(index);
    for entry in &mut table {
        adjust(entry, id, topology, is_amd);
    }
    if max_basic >= TOPOLOGY {
        table.extend(topology_leaf(id, topology));
    }
    table
}

/// Tells the frequencies of the TSC and of the local APIC's timer in kHz, as
/// hypervisors do, if one shows itself.
pub fn tell_frequency(table: &mut Vec<kvm_cpuid_entry2>, tsc_khz: u32) {
    let Some(hypervisor) = table.iter_mut().find(|e| e.function == HYPERVISOR_LEAVES) else {
        return;
    };
    hypervisor.eax = hypervisor.eax.max(FREQUENCIES);
    table.retain(|e| e.function != FREQUENCIES);
    table.push(kvm_cpuid_entry2 {
        function: FREQUENCIES,
        eax: tsc_khz,
        // KVM's runs at 1 GHz.
        ebx: 1_000_000,
        ..Default::default()
    });
}

fn apply_model(table: &mut Vec<kvm_cpuid_entry2>, cpu: &CpuConfig) {
    for feature in FEATURES {
        let asked = cpu.changes.iter().rev().find(|(f, _)| *f == feature);
        let on = asked.map_or(cpu.model.has(feature.name), |(_, on)| *on);
        if !on {
            feature.set(table, false);
        }
    }
    if let Some(identity) = &cpu.model.identity {
        identify(table, identity);
    }
    cut_xstate(table);
}

fn identify(table: &mut [kvm_cpuid_entry2], identity: &Identity) {
    let word = |bytes: &[u8], at: usize| {
        let byte = |i| bytes.get(at + i).copied().unwrap_or(0);
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    };
    let (family, model, stepping) = identity.signature;
    let signature = stepping
        | (model & 15) << 4
        | family.min(15) << 8
        | (model >> 4) << 16
        | family.saturating_sub(15) << 20;
    for e in table {
        match e.function {
            VENDOR => {
                e.ebx = word(identity.vendor, 0);
                e.edx = word(identity.vendor, 4);
                e.ecx = word(identity.vendor, 8);
            }
            BASIC => e.eax = signature,
            EXT_FEATURES => {
                e.eax = if identity.vendor == b"AuthenticAMD" {
                    signature
                } else {
                    0
                }
            }
            leaf @ BRAND..=0x8000_0004 => {
                let at = (leaf - BRAND) as usize * 16;
                let brand = identity.brand.as_bytes();
                e.eax = word(brand, at);
                e.ebx = word(brand, at + 4);
                e.ecx = word(brand, at + 8);
                e.edx = word(brand, at + 12);
            }
            _ => {}
        }
    }
}

/// Without a feature there is no XSAVE state for it, without XSAVE none.
fn cut_xstate(table: &mut Vec<kvm_cpuid_entry2>) {
    let has = |table: &[_], name| FEATURES.iter().any(|f| f.name == name && f.is_in(table));
    if !has(table, "xsave") {
        table.retain(|e| e.function != XSTATE);
        for name in ["avx", "fma", "f16c"] {
            FEATURES
                .iter()
                .filter(|f| f.name == name)
                .for_each(|f| f.set(table, false));
        }
    }
    let mut keep = 3u32; // x87, SSE
    if has(table, "avx") {
        keep |= 1 << 2;
        if has(table, "avx512f") {
            keep |= 0b111 << 5;
        }
    }
    table.retain(|e| e.function != XSTATE || e.index < 2 || keep >> e.index.min(31) & 1 != 0);
    let components = table
        .iter()
        .filter(|e| e.function == XSTATE && e.index >= 2);
    let size = components.map(|e| e.eax + e.ebx).max().unwrap_or(576);
    for e in table
        .iter_mut()
        .filter(|e| e.function == XSTATE && e.index == 0)
    {
        (e.eax, e.edx, e.ecx) = (e.eax & keep, 0, size);
    }
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u32, topology: &Topology, is_amd: bool) {
    let logical = topology.per_socket();
    let shift = topology.socket_shift();
    match entry.function {
        BASIC => {
            // CLFLUSH size and brand index stay.
            entry.ebx = entry.ebx & 0xffff | logical.min(255) << 16 | (id & 0xff) << 24;
            entry.ecx |= HYPERVISOR;
            entry.edx = entry.edx & !HTT | if logical > 1 { HTT } else { 0 };
        }
        // Cache type 0 ends the list.
        CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let shared_by = if level >= 3 {
                shift
            } else {
                topology.thread_bits()
            };
            let cores = shift - topology.thread_bits();
            entry.eax = entry.eax & 0x3fff
                | ((1 << shared_by) - 1u32).min(0xfff) << 14
                | ((1 << cores) - 1u32).min(63) << 26;
        }
        EXT_FEATURES => {
            entry.ecx &= !(CMP_LEGACY | TOPOEXT);
            if is_amd && logical > 1 {
                entry.ecx |= CMP_LEGACY;
            }
        }
        EXT_SIZES if is_amd => {
            entry.ecx = (logical.min(256) - 1) | shift << 12;
        }
        _ => {}
    }
}

/// Leaf 0xb: a level of threads, a level of cores, an end mark.
fn topology_leaf(id: u32, topology: &Topology) -> [kvm_cpuid_entry2; 3] {
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
        level(0, topology.thread_bits(), topology.threads, LEVEL_SMT),
        level(
            1,
            topology.socket_shift(),
            topology.per_socket(),
            LEVEL_CORE,
        ),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Feature, Model};

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

    fn max(index: u32, cores: u32, supported: &[kvm_cpuid_entry2]) -> Vec<kvm_cpuid_entry2> {
        for_vcpu(
            supported,
            index,
            &CpuConfig::default(),
            &Topology::of_cores(cores),
        )
    }

    fn with(model: &str, changes: &[(&str, bool)]) -> CpuConfig {
        CpuConfig {
            model: Model::by_name(model).unwrap(),
            changes: changes
                .iter()
                .map(|(name, on)| (Feature::by_name(name).unwrap(), *on))
                .collect(),
            enforce: false,
        }
    }

    #[test]
    fn frequencies_are_told_where_a_hypervisor_shows_itself() {
        let mut table = intel();
        for khz in [2_000_000, 2_500_000] {
            tell_frequency(&mut table, khz);
            assert_eq!(find(&table, HYPERVISOR_LEAVES, 0)[0], FREQUENCIES);
            assert_eq!(find(&table, FREQUENCIES, 0), [khz, 1_000_000, 0, 0]);
        }
        let mut bare = vec![leaf(0, 0, [1, 0, 0, 0])];
        tell_frequency(&mut bare, 2_000_000);
        assert_eq!(bare.len(), 1);
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
        let table = max(0, 1, &intel());
        assert_eq!(find(&table, 1, 0), [0x5_0654, 0x0001_0800, HYPERVISOR, 0]);
        assert_eq!(find(&table, 4, 3)[0], 0x163);
        assert_eq!(find(&table, 0xb, 1), [0, 1, 0x201, 0]);
        assert_eq!(find(&table, 0x4000_0000, 0)[1], 0x4b4d_564b);
    }

    #[test]
    fn third_of_six() {
        let table = max(2, 6, &intel());
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
        let table = max(1, 4, &supported);
        assert_eq!(find(&table, 0x8000_0001, 0)[2], CMP_LEGACY);
        assert_eq!(find(&table, 0x8000_0008, 0)[2], 0x2003);
        assert!(!table.iter().any(|e| e.function == 0x8000_001e));
    }

    #[test]
    fn the_tsc_is_invariant_only_if_asked_for() {
        let supported = [leaf(0x8000_0007, 0, [0, 0, 0, 0x101])];
        let of = |cpu| {
            find(
                &for_vcpu(&supported, 0, &cpu, &Topology::default()),
                0x8000_0007,
                0,
            )
        };
        assert_eq!(of(with("max", &[]))[3], 1);
        assert_eq!(of(with("max", &[("invtsc", true)]))[3], 0x101);
        assert_eq!(
            of(with("max", &[("invtsc", true), ("invtsc", false)]))[3],
            1
        );
    }

    #[test]
    fn threads_and_sockets() {
        let topology = Topology {
            sockets: 2,
            cores: 3,
            threads: 2,
        };
        let table = for_vcpu(&intel(), 8, &CpuConfig::default(), &topology);
        // Processor 8 is socket 1, core 1, thread 0.
        assert_eq!(find(&table, 1, 0)[1], 0x0a06_0800);
        assert_eq!(find(&table, 0xb, 0), [1, 2, 0x100, 10]);
        assert_eq!(find(&table, 0xb, 1), [3, 6, 0x201, 10]);
        // Threads share the first levels, the package the last; four core ids.
        assert_eq!(find(&table, 4, 0)[0] >> 14, 3 << 12 | 1);
        assert_eq!(find(&table, 4, 3)[0] >> 14, 3 << 12 | 7);
    }

    /// A backend that offers every feature and all of AVX-512's state.
    fn everything() -> Vec<kvm_cpuid_entry2> {
        let mut table = vec![leaf(0, 0, [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69])];
        for f in FEATURES {
            if !f.is_in(&table) {
                let mut probe = leaf_of(f);
                f.set(std::slice::from_mut(&mut probe), true);
                match table
                    .iter_mut()
                    .find(|e| (e.function, e.index) == (probe.function, probe.index))
                {
                    Some(e) => {
                        e.eax |= probe.eax;
                        e.ebx |= probe.ebx;
                        e.ecx |= probe.ecx;
                        e.edx |= probe.edx;
                    }
                    None => table.push(probe),
                }
            }
        }
        table.push(leaf(0xd, 0, [0xe7, 576, 2688, 0]));
        for (i, size, at) in [
            (2, 256, 576),
            (5, 64, 1088),
            (6, 512, 1152),
            (7, 1024, 1664),
        ] {
            table.push(leaf(0xd, i, [size, at, 0, 0]));
        }
        for n in 0..3 {
            table.push(leaf(BRAND + n, 0, [!0; 4]));
        }
        table
    }

    fn leaf_of(f: &Feature) -> kvm_cpuid_entry2 {
        let (function, index) = f.place();
        leaf(function, index, [0; 4])
    }

    #[test]
    fn a_model_has_its_identity_and_features_only() {
        let table = for_vcpu(&everything(), 0, &with("qemu64", &[]), &Topology::default());
        let [_, b, c, d] = find(&table, 0, 0);
        assert_eq!([b, d, c].map(u32::to_le_bytes).concat(), b"AuthenticAMD");
        assert_eq!(find(&table, 1, 0)[0], 0x60fb1);
        assert_eq!(&find(&table, BRAND, 0)[0].to_le_bytes(), b"QEMU");
        assert!(!Feature::by_name("avx").unwrap().is_in(&table));
        assert!(Feature::by_name("cx16").unwrap().is_in(&table));
        assert!(!table.iter().any(|e| e.function == XSTATE));
    }

    #[test]
    fn state_follows_features() {
        let cpu = with("Skylake-Server", &[("avx512f", false)]);
        let table = for_vcpu(&everything(), 0, &cpu, &Topology::default());
        assert_eq!(find(&table, XSTATE, 0), [7, 576, 832, 0]);
        assert!(!table.iter().any(|e| e.function == XSTATE && e.index > 2));
        let table = for_vcpu(&everything(), 0, &with("max", &[]), &Topology::default());
        assert_eq!(find(&table, XSTATE, 0), [0xe7, 576, 2688, 0]);
    }

    #[test]
    fn what_the_accelerator_lacks_is_named() {
        let supported = intel();
        assert!(missing(&supported, &with("max", &[])).unwrap().is_empty());
        let asked = missing(&supported, &with("max", &[("avx2", true)]));
        assert_eq!(asked, Err(Unsupported(vec!["avx2"])));
        let lacks = missing(&supported, &with("Nehalem", &[("popcnt", false)])).unwrap();
        assert!(lacks.contains(&"sse4.2") && !lacks.contains(&"popcnt"));
        let enforced = CpuConfig {
            enforce: true,
            ..with("Nehalem", &[])
        };
        assert!(missing(&supported, &enforced).is_err());
        assert!(missing(&everything(), &enforced).is_ok());
    }
}
