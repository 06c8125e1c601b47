//! CPU models by QEMU's names. A model is the CPUID identity and a list of
//! features; TSX and MPX are left out everywhere, as their makers did later.

/// Vendor, family, model, stepping and brand string.
#[derive(Debug)]
pub struct Identity {
    /// Vendor string of leaf 0.
    pub vendor: &'static [u8; 12],
    /// Family, model, stepping (SDM vol 2, CPUID leaf 1).
    pub signature: (u32, u32, u32),
    /// Brand string, at most 47 bytes.
    pub brand: &'static str,
}

/// One model.
#[derive(Debug)]
pub struct Model {
    /// QEMU's name.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Who it says it is; the host if `None`.
    pub identity: Option<Identity>,
    /// Its features by name, in groups separated by blanks; all that the
    /// accelerator offers if `None`.
    pub features: Option<&'static [&'static str]>,
}

const X86_64: &str = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush \
    mmx fxsr sse sse2 pni cx16 syscall nx lm";
/// What a hypervisor adds to any model; the last three tell kernels which
/// mitigations they need not have.
const VIRTUAL: &str = "hypervisor x2apic tsc-deadline kvmclock kvmclock-stable-bit kvm-nopiodelay \
    tsc-adjust spec-ctrl ssbd arch-capabilities";
const NEHALEM: &str = "vme ssse3 sse4.1 sse4.2 popcnt lahf-lm";
const SANDY_BRIDGE: &str = "pclmulqdq aes xsave avx xsaveopt rdtscp";
const HASWELL: &str = "fma movbe pcid f16c rdrand fsgsbase bmi1 avx2 smep bmi2 erms invpcid abm";
const SKYLAKE: &str = "rdseed adx smap clflushopt 3dnowprefetch pdpe1gb xsavec xgetbv1";
const AVX512: &str = "clwb avx512f avx512dq avx512cd avx512bw avx512vl";
const ICE_LAKE: &str = "avx512vnni avx512vbmi avx512vbmi2 avx512bitalg avx512-vpopcntdq umip gfni \
    vaes vpclmulqdq";
const ZEN: &str = "pclmulqdq aes xsave avx xsaveopt rdtscp fma movbe f16c rdrand fsgsbase bmi1 \
    avx2 smep bmi2 abm rdseed adx smap clflushopt 3dnowprefetch pdpe1gb xsavec xgetbv1 sha-ni";

const INTEL: &[u8; 12] = b"GenuineIntel";
const AMD: &[u8; 12] = b"AuthenticAMD";

/// Everything the accelerator offers.
pub const MAX: Model = Model {
    name: "max",
    help: "everything the accelerator offers",
    identity: None,
    features: None,
};

const fn model(
    name: &'static str,
    vendor: &'static [u8; 12],
    signature: (u32, u32, u32),
    brand: &'static str,
    features: &'static [&'static str],
) -> Model {
    Model {
        name,
        help: brand,
        identity: Some(Identity {
            vendor,
            signature,
            brand,
        }),
        features: Some(features),
    }
}

/// Every model.
#[rustfmt::skip]
pub static MODELS: &[Model] = &[
    MAX,
    Model { name: "host", help: "what the accelerator offers of the host CPU", ..MAX },
    model("qemu64", AMD, (15, 107, 1), "QEMU Virtual CPU version 2.5+", &[X86_64, VIRTUAL, "lahf-lm"]),
    model("kvm64", INTEL, (15, 6, 1), "Common KVM processor", &[X86_64, VIRTUAL, "vme"]),
    model("Nehalem", INTEL, (6, 26, 3), "Intel Core i7 9xx (Nehalem Class Core i7)",
        &[X86_64, VIRTUAL, NEHALEM]),
    model("SandyBridge", INTEL, (6, 42, 1), "Intel Xeon E312xx (Sandy Bridge)",
        &[X86_64, VIRTUAL, NEHALEM, SANDY_BRIDGE]),
    model("Haswell", INTEL, (6, 60, 4), "Intel Core Processor (Haswell, no TSX)",
        &[X86_64, VIRTUAL, NEHALEM, SANDY_BRIDGE, HASWELL]),
    model("Skylake-Server", INTEL, (6, 85, 4), "Intel Xeon Processor (Skylake, no TSX)",
        &[X86_64, VIRTUAL, NEHALEM, SANDY_BRIDGE, HASWELL, SKYLAKE, AVX512]),
    model("Icelake-Server", INTEL, (6, 134, 0), "Intel Xeon Processor (Icelake)",
        &[X86_64, VIRTUAL, NEHALEM, SANDY_BRIDGE, HASWELL, SKYLAKE, AVX512, ICE_LAKE]),
    model("EPYC", AMD, (23, 1, 2), "AMD EPYC Processor",
        &[X86_64, VIRTUAL, NEHALEM, ZEN]),
];

impl Model {
    /// The model of that name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|m| m.name == name)
    }
    /// True if the model has the feature by itself.
    pub fn has(&self, name: &str) -> bool {
        match self.features {
            Some(groups) => groups.iter().any(|g| g.split(' ').any(|f| f == name)),
            // Told only if asked for: Linux would then keep time by the TSC
            // alone instead of kvmclock, which follows the host's clock.
            None => name != "invtsc",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Feature;

    #[test]
    fn every_feature_of_a_model_exists() {
        for model in MODELS {
            let groups = model.features.unwrap_or_default();
            for name in groups.iter().flat_map(|g| g.split_whitespace()) {
                let f = Feature::by_name(name);
                assert_eq!(f.map(|f| f.name), Some(name), "{}", model.name);
            }
            assert!(model.help.len() < 48);
        }
    }

    #[test]
    fn names_are_unique() {
        for (i, m) in MODELS.iter().enumerate() {
            assert!(MODELS[..i].iter().all(|n| n.name != m.name));
        }
    }
}
