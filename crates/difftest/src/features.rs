//! The host's features by the names /proc/cpuinfo gives them: a table of our
//! own, so that a mistake in the engine's CPUID table shows.

use iced_x86::{Code, CpuidFeature as F};

/// Features and the flag that announces each.
const FLAGS: &[(F, &str)] = &[
    (F::ADX, "adx"),
    (F::AES, "aes"),
    (F::AVX, "avx"),
    (F::AVX2, "avx2"),
    (F::AVX512_4FMAPS, "avx512_4fmaps"),
    (F::AVX512_4VNNIW, "avx512_4vnniw"),
    (F::AVX512_BF16, "avx512_bf16"),
    (F::AVX512_BITALG, "avx512_bitalg"),
    (F::AVX512_IFMA, "avx512ifma"),
    (F::AVX512_VBMI, "avx512vbmi"),
    (F::AVX512_VBMI2, "avx512_vbmi2"),
    (F::AVX512_VNNI, "avx512_vnni"),
    (F::AVX512_VP2INTERSECT, "avx512_vp2intersect"),
    (F::AVX512_VPOPCNTDQ, "avx512_vpopcntdq"),
    (F::AVX512_FP16, "avx512_fp16"),
    (F::AVX512BW, "avx512bw"),
    (F::AVX512CD, "avx512cd"),
    (F::AVX512DQ, "avx512dq"),
    (F::AVX512ER, "avx512er"),
    (F::AVX512F, "avx512f"),
    (F::AVX512PF, "avx512pf"),
    (F::AVX512VL, "avx512vl"),
    (F::AVX_VNNI, "avx_vnni"),
    (F::BMI1, "bmi1"),
    (F::BMI2, "bmi2"),
    (F::CLDEMOTE, "cldemote"),
    (F::CLFLUSHOPT, "clflushopt"),
    (F::CLFSH, "clflush"),
    (F::CLWB, "clwb"),
    (F::CMOV, "cmov"),
    (F::CMPXCHG16B, "cx16"),
    (F::CX8, "cx8"),
    (F::D3NOW, "3dnow"),
    (F::D3NOWEXT, "3dnowext"),
    (F::F16C, "f16c"),
    (F::FMA, "fma"),
    (F::FMA4, "fma4"),
    (F::FPU, "fpu"),
    (F::FSGSBASE, "fsgsbase"),
    (F::FXSR, "fxsr"),
    (F::GFNI, "gfni"),
    (F::LZCNT, "abm"),
    (F::MMX, "mmx"),
    (F::MOVBE, "movbe"),
    (F::MOVDIR64B, "movdir64b"),
    (F::MOVDIRI, "movdiri"),
    (F::PCLMULQDQ, "pclmulqdq"),
    (F::POPCNT, "popcnt"),
    (F::PREFETCHW, "3dnowprefetch"),
    (F::RDRAND, "rdrand"),
    (F::RDSEED, "rdseed"),
    (F::MSR, "msr"),
    (F::SEP, "sep"),
    (F::SERIALIZE, "serialize"),
    (F::SHA, "sha_ni"),
    (F::SSE, "sse"),
    (F::SSE2, "sse2"),
    (F::SSE3, "pni"),
    (F::SSE4_1, "sse4_1"),
    (F::SSE4_2, "sse4_2"),
    (F::SSE4A, "sse4a"),
    (F::SSSE3, "ssse3"),
    (F::TSC, "tsc"),
    (F::TBM, "tbm"),
    (F::VAES, "vaes"),
    (F::VPCLMULQDQ, "vpclmulqdq"),
    (F::X64, "lm"),
    (F::XOP, "xop"),
    (F::XSAVE, "xsave"),
];

/// Features of every 64-bit CPU that have no flag.
const ALWAYS: &[F] = &[
    F::INTEL8086,
    F::INTEL186,
    F::INTEL286,
    F::INTEL386,
    F::INTEL486,
    F::FPU287,
    F::FPU387,
    F::PAUSE,
    F::MULTIBYTENOP,
    F::CET_IBT,
];

/// The set of features the host has.
#[derive(Clone, Debug)]
pub struct HostFeatures(Vec<bool>);

impl HostFeatures {
    /// Reads /proc/cpuinfo.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read() -> std::io::Result<Self> {
        let info = std::fs::read_to_string("/proc/cpuinfo")?;
        let flags = info
            .lines()
            .find_map(|l| l.strip_prefix("flags").map(|l| l.to_owned()))
            .unwrap_or_default();
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let mut set = vec![false; F::values().len()];
        for &f in ALWAYS {
            set[f as usize] = true;
        }
        for (f, name) in FLAGS {
            set[*f as usize] = flags.contains(name);
        }
        Ok(Self(set))
    }
    /// True if the host has every feature `code` needs and the engine offers
    /// them (its limits: no half-precision arithmetic).
    pub fn offered(&self, code: Code) -> bool {
        code.cpuid_features()
            .iter()
            .all(|&f| self.has(f) && f != F::AVX512_FP16)
    }
    /// True if the host has `feature`.
    pub fn has(&self, feature: F) -> bool {
        self.0.get(feature as usize).copied().unwrap_or(false)
    }
}
