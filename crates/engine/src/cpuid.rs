//! CPUID leaves the engine can honour, and the lookup a guest's CPUID does.

use hv::abi::kvm_cpuid_entry2;

/// Host CPUID: `[eax, ebx, ecx, edx]`.
pub fn host(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = std::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Guest-physical address width offered.
pub fn phys_bits() -> u32 {
    if host(0x8000_0000, 0)[0] >= 0x8000_0008 {
        (host(0x8000_0008, 0)[0] & 0xff).clamp(36, 46)
    } else {
        36
    }
}

/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`.
const INDEXED: u32 = 1;

const fn bits(list: &[u32]) -> u32 {
    let mut v = 0;
    let mut i = 0;
    while i < list.len() {
        v |= 1 << list[i];
        i += 1;
    }
    v
}

/// Feature bits the engine honours, per leaf and register (SDM vol 2, CPUID).
mod offered {
    use super::bits;
    /// SSE3 PCLMULQDQ SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT
    /// TSC-deadline AES XSAVE AVX F16C RDRAND.
    pub const L1_ECX: u32 = bits(&[
        0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30,
    ]);
    /// FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36
    /// CLFSH MMX FXSR SSE SSE2.
    pub const L1_EDX: u32 = bits(&[
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26,
    ]);
    /// Those of L1 that the engine provides whatever the host has: PCID,
    /// x2APIC, TSC-deadline.
    pub const L1_ECX_ALWAYS: u32 = bits(&[17, 21, 24]);
    /// FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID AVX512F AVX512DQ
    /// RDSEED ADX SMAP IFMA CLFLUSHOPT CLWB AVX512CD SHA AVX512BW AVX512VL.
    pub const L7_EBX: u32 = bits(&[
        0, 1, 3, 5, 7, 8, 9, 10, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31,
    ]);
    /// FSGSBASE TSC_ADJUST SMEP INVPCID SMAP.
    pub const L7_EBX_ALWAYS: u32 = bits(&[0, 1, 7, 10, 20]);
    /// VBMI UMIP VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ RDPID.
    pub const L7_ECX: u32 = bits(&[1, 2, 6, 8, 9, 10, 11, 12, 14, 22]);
    /// UMIP RDPID.
    pub const L7_ECX_ALWAYS: u32 = bits(&[2, 22]);
    /// FSRM.
    pub const L7_EDX: u32 = bits(&[4]);
    /// SERIALIZE, SPEC_CTRL, ARCH_CAPABILITIES, SSBD.
    pub const L7_EDX_ALWAYS: u32 = bits(&[14, 26, 29, 31]);
    /// AVX-VNNI, AVX512_BF16.
    pub const L7_1_EAX: u32 = bits(&[4, 5]);
    /// BHI_CTRL: newer kernels ask for it in spite of BHI_NO, and without it
    /// run a loop of branches at each system call.
    pub const L7_2_EDX_ALWAYS: u32 = bits(&[4]);
    /// XSAVEOPT XSAVEC XGETBV(1).
    pub const LD_1_EAX: u32 = bits(&[0, 1, 2]);
    /// LAHF, LZCNT, PREFETCHW.
    pub const X1_ECX: u32 = bits(&[0, 5, 8]);
    /// SYSCALL NX 1GPAGE RDTSCP LM.
    pub const X1_EDX: u32 = bits(&[11, 20, 26, 27, 29]);
    /// KVM: CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE.
    pub const KVM: u32 = bits(&[0, 1, 3, 24]);
}

/// XCR0 components offered: what the host has of x87, SSE, AVX, AVX-512.
pub fn xcr0_offered() -> u64 {
    if host(1, 0)[2] & (1 << 27) == 0 {
        return 0; // the host has no XSAVE
    }
    jit::native::components().0
}

fn entry(function: u32, index: u32, flags: u32, r: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        flags,
        eax: r[0],
        ebx: r[1],
        ecx: r[2],
        edx: r[3],
        ..Default::default()
    }
}

/// The leaves a guest may be given.
pub fn supported() -> Vec<kvm_cpuid_entry2> {
    let mut v = basic();
    v.extend(xsave_leaves());
    v.extend(hypervisor());
    v.extend(extended());
    v.sort_by_key(|e| (e.function, e.index));
    v
}

fn basic() -> Vec<kvm_cpuid_entry2> {
    let vendor = host(0, 0);
    let xsave = xcr0_offered() != 0;
    let max = if xsave { 0xd } else { 0xb };
    let [sig, misc, ecx, edx] = host(1, 0);
    let mut l1c = ecx & offered::L1_ECX | offered::L1_ECX_ALWAYS | 1 << 31;
    if !xsave {
        l1c &= !bits(&[26, 28, 12, 29]);
    }
    let l7 = if vendor[0] >= 7 { host(7, 0) } else { [0; 4] };
    let l71 = if l7[0] >= 1 { host(7, 1) } else { [0; 4] };
    let mut l7b = l7[1] & offered::L7_EBX | offered::L7_EBX_ALWAYS;
    let mut l7c = l7[2] & offered::L7_ECX;
    if xcr0_offered() & x86::xstate::AVX512 == 0 {
        l7b &= !bits(&[16, 17, 21, 28, 30, 31]);
        l7c &= !bits(&[1, 6, 11, 12, 14]);
    }
    let mut v = vec![
        entry(0, 0, 0, [max, vendor[1], vendor[2], vendor[3]]),
        entry(
            1,
            0,
            0,
            [sig, misc & 0xff00 | 1 << 16, l1c, edx & offered::L1_EDX],
        ),
        entry(2, 0, 0, host(2, 0)),
        entry(6, 0, 0, [1 << 2, 0, 0, 0]), // ARAT: the APIC timer never stops
        entry(
            7,
            0,
            INDEXED,
            [
                2,
                l7b,
                l7c | offered::L7_ECX_ALWAYS,
                l7[3] & offered::L7_EDX | offered::L7_EDX_ALWAYS,
            ],
        ),
        entry(7, 1, INDEXED, [l71[0] & offered::L7_1_EAX, 0, 0, 0]),
        entry(7, 2, INDEXED, [0, 0, 0, offered::L7_2_EDX_ALWAYS]),
        entry(0xb, 0, INDEXED, [0, 1, 1 << 8, 0]),
        entry(0xb, 1, INDEXED, [0, 1, 2 << 8 | 1, 0]),
    ];
    for i in 0..8 {
        let c = host(4, i);
        if c[0] & 0x1f == 0 {
            break;
        }
        v.push(entry(4, i, INDEXED, [c[0] & 0x3ff, c[1], c[2], c[3]]));
    }
    v
}

fn xsave_leaves() -> Vec<kvm_cpuid_entry2> {
    let mask = xcr0_offered();
    if mask == 0 {
        return Vec::new();
    }
    let size = (2..63)
        .filter(|i| mask & (1 << i) != 0)
        .map(|i| host(0xd, i))
        .map(|l| l[0] + l[1])
        .max()
        .unwrap_or(576);
    let one = host(0xd, 1)[0] & offered::LD_1_EAX;
    let mut v = vec![
        entry(
            0xd,
            0,
            INDEXED,
            [mask as u32, 576, size, (mask >> 32) as u32],
        ),
        entry(0xd, 1, INDEXED, [one, 0, 0, 0]),
    ];
    for i in (2..63).filter(|i| mask & (1 << i) != 0) {
        let l = host(0xd, i);
        v.push(entry(0xd, i, INDEXED, [l[0], l[1], l[2] & 2, 0]));
    }
    v
}

fn hypervisor() -> Vec<kvm_cpuid_entry2> {
    vec![
        entry(
            0x4000_0000,
            0,
            0,
            [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
        ),
        entry(0x4000_0001, 0, 0, [offered::KVM, 0, 0, 0]),
    ]
}

fn extended() -> Vec<kvm_cpuid_entry2> {
    let x1 = host(0x8000_0001, 0);
    let mut v = vec![
        entry(0x8000_0000, 0, 0, [0x8000_0008, 0, 0, 0]),
        entry(
            0x8000_0001,
            0,
            0,
            [0, 0, x1[2] & offered::X1_ECX, x1[3] & offered::X1_EDX],
        ),
        entry(0x8000_0007, 0, 0, [0, 0, 0, 1 << 8]),
        entry(0x8000_0008, 0, 0, [phys_bits() | 48 << 8, 0, 0, 0]),
    ];
    for n in 0x8000_0002..=0x8000_0006u32 {
        v.push(entry(n, 0, 0, host(n, 0)));
    }
    v
}

/// What CPUID returns for `leaf` and `subleaf` from a guest's table: out of
/// range leaves answer as the highest basic leaf (SDM vol 2, CPUID).
pub fn lookup(table: &[kvm_cpuid_entry2], leaf: u32, subleaf: u32) -> [u32; 4] {
    let find = |leaf: u32| {
        table
            .iter()
            .find(|e| e.function == leaf && (e.flags & INDEXED == 0 || e.index == subleaf))
    };
    let known = |leaf: u32| table.iter().any(|e| e.function == leaf);
    let e = match find(leaf) {
        Some(e) => e,
        None if known(leaf) => return zero(leaf, subleaf),
        None => {
            let class = leaf & 0xffff_0000;
            let max = table
                .iter()
                .find(|e| e.function == class)
                .map_or(0, |e| e.eax);
            let basic = table.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
            if leaf <= max || class == 0x4000_0000 {
                return [0; 4];
            }
            match find(basic) {
                Some(e) => e,
                None => return zero(basic, subleaf),
            }
        }
    };
    [e.eax, e.ebx, e.ecx, e.edx]
}

/// A missing subleaf: zeros, except that the topology leaf always echoes the
/// subleaf number.
fn zero(leaf: u32, subleaf: u32) -> [u32; 4] {
    if leaf == 0xb {
        [0, 0, subleaf & 0xff, 0]
    } else {
        [0; 4]
    }
}
