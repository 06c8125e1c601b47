//! Which of the decoder's CPUID features a guest's CPUID table offers.

use crate::cpuid;
use hv::abi::kvm_cpuid_entry2;
use iced_x86::CpuidFeature as F;

/// Register index in `[eax, ebx, ecx, edx]`.
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

/// (feature, leaf, subleaf, register, bit).
const TABLE: &[(F, u32, u32, usize, u32)] = &[
    (F::SSE3, 1, 0, C, 0),
    (F::PCLMULQDQ, 1, 0, C, 1),
    (F::MONITOR, 1, 0, C, 3),
    (F::VMX, 1, 0, C, 5),
    (F::SMX, 1, 0, C, 6),
    (F::SSSE3, 1, 0, C, 9),
    (F::FMA, 1, 0, C, 12),
    (F::CMPXCHG16B, 1, 0, C, 13),
    (F::SSE4_1, 1, 0, C, 19),
    (F::SSE4_2, 1, 0, C, 20),
    (F::MOVBE, 1, 0, C, 22),
    (F::POPCNT, 1, 0, C, 23),
    (F::AES, 1, 0, C, 25),
    (F::XSAVE, 1, 0, C, 26),
    (F::AVX, 1, 0, C, 28),
    (F::F16C, 1, 0, C, 29),
    (F::RDRAND, 1, 0, C, 30),
    (F::FPU, 1, 0, D, 0),
    (F::TSC, 1, 0, D, 4),
    (F::MSR, 1, 0, D, 5),
    (F::CX8, 1, 0, D, 8),
    (F::SEP, 1, 0, D, 11),
    (F::CMOV, 1, 0, D, 15),
    (F::CLFSH, 1, 0, D, 19),
    (F::MMX, 1, 0, D, 23),
    (F::FXSR, 1, 0, D, 24),
    (F::SSE, 1, 0, D, 25),
    (F::SSE2, 1, 0, D, 26),
    (F::FSGSBASE, 7, 0, B, 0),
    (F::BMI1, 7, 0, B, 3),
    (F::HLE, 7, 0, B, 4),
    (F::AVX2, 7, 0, B, 5),
    (F::BMI2, 7, 0, B, 8),
    (F::INVPCID, 7, 0, B, 10),
    (F::RTM, 7, 0, B, 11),
    (F::MPX, 7, 0, B, 14),
    (F::AVX512F, 7, 0, B, 16),
    (F::AVX512DQ, 7, 0, B, 17),
    (F::RDSEED, 7, 0, B, 18),
    (F::ADX, 7, 0, B, 19),
    (F::SMAP, 7, 0, B, 20),
    (F::AVX512_IFMA, 7, 0, B, 21),
    (F::CLFLUSHOPT, 7, 0, B, 23),
    (F::CLWB, 7, 0, B, 24),
    (F::AVX512CD, 7, 0, B, 28),
    (F::SHA, 7, 0, B, 29),
    (F::AVX512BW, 7, 0, B, 30),
    (F::AVX512VL, 7, 0, B, 31),
    (F::AVX512_VBMI, 7, 0, C, 1),
    (F::PKU, 7, 0, C, 3),
    (F::WAITPKG, 7, 0, C, 5),
    (F::AVX512_VBMI2, 7, 0, C, 6),
    (F::GFNI, 7, 0, C, 8),
    (F::VAES, 7, 0, C, 9),
    (F::VPCLMULQDQ, 7, 0, C, 10),
    (F::AVX512_VNNI, 7, 0, C, 11),
    (F::AVX512_BITALG, 7, 0, C, 12),
    (F::AVX512_VPOPCNTDQ, 7, 0, C, 14),
    (F::RDPID, 7, 0, C, 22),
    (F::CLDEMOTE, 7, 0, C, 25),
    (F::MOVDIRI, 7, 0, C, 27),
    (F::MOVDIR64B, 7, 0, C, 28),
    (F::SERIALIZE, 7, 0, D, 14),
    (F::AVX_VNNI, 7, 1, A, 4),
    (F::AVX512_BF16, 7, 1, A, 5),
    (F::XSAVEOPT, 0xd, 1, A, 0),
    (F::XSAVEC, 0xd, 1, A, 1),
    (F::XSAVES, 0xd, 1, A, 3),
    (F::LZCNT, 0x8000_0001, 0, C, 5),
    (F::PREFETCHW, 0x8000_0001, 0, C, 8),
    (F::SYSCALL, 0x8000_0001, 0, D, 11),
    (F::RDTSCP, 0x8000_0001, 0, D, 27),
    (F::X64, 0x8000_0001, 0, D, 29),
];

/// Features every x86-64 CPU has, without a CPUID bit of their own.
const ALWAYS: &[F] = &[
    F::INTEL8086,
    F::INTEL8086_ONLY,
    F::INTEL186,
    F::INTEL286,
    F::INTEL386,
    F::INTEL486,
    F::CPUID,
    F::FPU287,
    F::FPU387,
    F::PAUSE,
    F::MULTIBYTENOP,
    F::RDPMC,
    F::CET_IBT, // ENDBR is a NOP where CET is absent
    F::PREFETCHW,
];

/// Set of features by number.
#[derive(Clone, Debug)]
pub struct FeatureSet(Vec<bool>);

impl FeatureSet {
    /// The features a guest's CPUID table offers.
    pub fn new(table: &[kvm_cpuid_entry2]) -> Self {
        let mut set = vec![false; F::values().len()];
        for f in ALWAYS {
            set[*f as usize] = true;
        }
        for &(f, leaf, subleaf, register, bit) in TABLE {
            set[f as usize] |= cpuid::lookup(table, leaf, subleaf)[register] & (1 << bit) != 0;
        }
        Self(set)
    }
    /// True if offered.
    pub fn has(&self, feature: F) -> bool {
        self.0[feature as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Code;
    use isa::table::{Class, Why, class};

    #[test]
    fn what_the_table_excludes_needs_a_feature_that_no_guest_is_offered() {
        let set = FeatureSet::new(&cpuid::supported());
        let mut excluded = 0;
        for code in Code::values() {
            // A WAIT form is two instructions, both offered.
            let why = match class(code) {
                Class::Excluded(Why::WaitForm | Why::NotAnInstruction) => continue,
                Class::Excluded(why) => why,
                _ => continue,
            };
            let offered = code.cpuid_features().iter().all(|f| set.has(*f));
            // POP CS is the 8086's alone: no feature bit says so.
            assert!(!offered || code == Code::Popw_CS, "{code:?}: {why:?}");
            excluded += 1;
        }
        assert!(excluded > 500, "{excluded}");
    }
}
