//! CPUID feature bits by the names QEMU's `-cpu` gives them.

use hv::abi::kvm_cpuid_entry2;

/// A register of a CPUID leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// EAX.
    A,
    /// EBX.
    B,
    /// ECX.
    C,
    /// EDX.
    D,
}

/// One bit.
#[derive(Debug, PartialEq, Eq)]
pub struct Feature {
    /// QEMU's name.
    pub name: &'static str,
    /// Another name for it.
    pub alias: &'static str,
    leaf: u32,
    index: u32,
    reg: Reg,
    bit: u32,
}

impl Feature {
    /// The feature of that name; `_` and `-` are the same.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let name = name.replace('_', "-");
        let is = |f: &&Self| f.name == name || (!f.alias.is_empty() && f.alias == name);
        FEATURES.iter().find(is)
    }
    /// True if the entry is the feature's leaf.
    fn lives_in(&self, entry: &kvm_cpuid_entry2) -> bool {
        entry.function == self.leaf && entry.index == self.index
    }
    /// True if the table has the bit.
    pub fn is_in(&self, table: &[kvm_cpuid_entry2]) -> bool {
        let entry = table.iter().find(|e| self.lives_in(e));
        entry.is_some_and(|e| register(&mut e.clone(), self.reg) & 1 << self.bit != 0)
    }
    /// Sets or clears the bit, if the table has the leaf.
    pub fn set(&self, table: &mut [kvm_cpuid_entry2], on: bool) {
        for entry in table.iter_mut().filter(|e| self.lives_in(e)) {
            let value = register_mut(entry, self.reg);
            *value = *value & !(1 << self.bit) | u32::from(on) << self.bit;
        }
    }
    /// Leaf and sub-leaf.
    #[cfg(test)]
    pub fn place(&self) -> (u32, u32) {
        (self.leaf, self.index)
    }
}

fn register_mut(entry: &mut kvm_cpuid_entry2, reg: Reg) -> &mut u32 {
    match reg {
        Reg::A => &mut entry.eax,
        Reg::B => &mut entry.ebx,
        Reg::C => &mut entry.ecx,
        Reg::D => &mut entry.edx,
    }
}

fn register(entry: &mut kvm_cpuid_entry2, reg: Reg) -> u32 {
    *register_mut(entry, reg)
}

const KVM: u32 = 0x4000_0001;
const EXT: u32 = 0x8000_0001;

/// `leaf, index, register: name bit, ...` rows.
macro_rules! features {
    ($($leaf:expr, $index:literal, $reg:ident: $($name:literal $(= $alias:literal)? $bit:literal),* ;)*) => {
        /// Every feature that has a name.
        pub static FEATURES: &[Feature] = &[$($(Feature {
            name: $name,
            alias: concat!($($alias)?),
            leaf: $leaf,
            index: $index,
            reg: Reg::$reg,
            bit: $bit,
        }),*),*];
    };
}

features! {
    1, 0, C: "pni" = "sse3" 0, "pclmulqdq" = "pclmuldq" 1, "monitor" 3, "vmx" 5, "ssse3" 9,
        "fma" 12, "cx16" 13, "pcid" 17, "sse4.1" = "sse4-1" 19, "sse4.2" = "sse4-2" 20,
        "x2apic" 21, "movbe" 22, "popcnt" 23, "tsc-deadline" 24, "aes" 25, "xsave" 26, "avx" 28,
        "f16c" 29, "rdrand" 30, "hypervisor" 31;
    1, 0, D: "fpu" 0, "vme" 1, "de" 2, "pse" 3, "tsc" 4, "msr" 5, "pae" 6, "mce" 7,
        "cx8" = "cmpxchg8" 8, "apic" 9, "sep" 11, "mtrr" 12, "pge" 13, "mca" 14, "cmov" 15,
        "pat" 16, "pse36" 17, "clflush" = "clfsh" 19, "mmx" 23, "fxsr" 24, "sse" 25, "sse2" 26;
    7, 0, B: "fsgsbase" 0, "tsc-adjust" 1, "bmi1" 3, "hle" 4, "avx2" 5, "smep" 7, "bmi2" 8,
        "erms" 9, "invpcid" 10, "rtm" 11, "mpx" 14, "avx512f" 16, "avx512dq" 17, "rdseed" 18,
        "adx" 19, "smap" 20, "avx512ifma" 21, "clflushopt" 23, "clwb" 24, "avx512cd" 28,
        "sha-ni" 29, "avx512bw" 30, "avx512vl" 31;
    7, 0, C: "avx512vbmi" = "avx512-vbmi" 1, "umip" 2, "pku" 3, "avx512vbmi2" = "avx512-vbmi2" 6,
        "gfni" 8, "vaes" 9, "vpclmulqdq" 10, "avx512vnni" = "avx512-vnni" 11,
        "avx512bitalg" = "avx512-bitalg" 12, "avx512-vpopcntdq" 14, "la57" 16, "rdpid" 22;
    7, 0, D: "fsrm" 4, "serialize" 14, "spec-ctrl" 26, "arch-capabilities" 29, "ssbd" 31;
    7, 1, A: "avx-vnni" 4, "avx512-bf16" 5;
    0xd, 1, A: "xsaveopt" 0, "xsavec" 1, "xgetbv1" 2, "xsaves" 3;
    KVM, 0, A: "kvm-nopiodelay" 1, "kvmclock" 3, "kvmclock-stable-bit" 24;
    EXT, 0, C: "lahf-lm" 0, "svm" 2, "abm" = "lzcnt" 5, "3dnowprefetch" 8;
    EXT, 0, D: "syscall" 11, "nx" = "xd" 20, "pdpe1gb" 26, "rdtscp" 27, "lm" = "i64" 29;
    0x8000_0007, 0, D: "invtsc" 8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_bits_are_unique() {
        let mut names = HashSet::new();
        let mut places = HashSet::new();
        for f in FEATURES {
            assert!(names.insert(f.name), "{}", f.name);
            assert!(f.alias.is_empty() || names.insert(f.alias), "{}", f.alias);
            assert!(places.insert((f.leaf, f.index, f.reg as u8, f.bit)));
        }
        assert_eq!(Feature::by_name("sse4_1").map(|f| f.bit), Some(19));
        assert!(Feature::by_name("").is_none());
    }

    #[test]
    fn a_bit_can_be_set_and_cleared() {
        let avx = Feature::by_name("avx").unwrap();
        let mut table = [kvm_cpuid_entry2 {
            function: 1,
            ..Default::default()
        }];
        assert!(!avx.is_in(&table));
        avx.set(&mut table, true);
        assert_eq!(table[0].ecx, 1 << 28);
        avx.set(&mut table, false);
        assert_eq!(table[0].ecx, 0);
        assert!(!avx.is_in(&[]));
    }
}
