//! Which instructions are compared, and why the others are not.

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic};

/// What the tests do with a [`Code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Compared with the host CPU.
    Compared,
    /// Not compared; the reason.
    Excluded(&'static str),
}

const SYSTEM: &str = "loads segments, descriptors or control state: conformance suite";
const HOST: &str = "acts on the host process or its kernel";
const RANDOM: &str = "result differs from run to run";
const TEST: &str = "outside 16-bit code only by privilege or mode: conformance suite";
const GONE: &str = "no current CPU has it";

/// The class of `code`.
pub fn class(code: Code) -> Class {
    let op = code.op_code();
    if !op.is_instruction() {
        return Class::Excluded("not an instruction");
    }
    if !op.mode64() && !op.mode32() {
        return Class::Excluded(TEST);
    }
    if matches!(op.encoding(), EncodingKind::MVEX | EncodingKind::D3NOW) || gone(code) {
        return Class::Excluded(GONE);
    }
    match code.mnemonic() {
        m if system(m) => Class::Excluded(SYSTEM),
        m if host(m) => Class::Excluded(HOST),
        m if random(m) => Class::Excluded(RANDOM),
        _ if op.op_kinds().iter().any(|k| unsupported(*k)) => Class::Excluded(SYSTEM),
        _ => Class::Compared,
    }
}

fn gone(code: Code) -> bool {
    use CpuidFeature as F;
    code.cpuid_features().iter().any(|f| {
        matches!(
            f,
            F::INTEL8086_ONLY
                | F::INTEL286_ONLY
                | F::INTEL386_ONLY
                | F::INTEL386_A0_ONLY
                | F::INTEL486_A_ONLY
                | F::FPU287XL_ONLY
                | F::FPU387SL_ONLY
                | F::CYRIX_D3NOW
                | F::CYRIX_DMI
                | F::CYRIX_EMMI
                | F::CYRIX_FPU
                | F::CYRIX_SHR
                | F::CYRIX_SMINT
                | F::CYRIX_SMM
                | F::CENTAUR_AIS
                | F::UDBG
                | F::MPX
                | F::KNC
        )
    })
}

fn unsupported(k: iced_x86::OpCodeOperandKind) -> bool {
    use iced_x86::OpCodeOperandKind as K;
    matches!(
        k,
        K::farbr2_2
            | K::farbr4_2
            | K::tr_reg
            | K::tmm_reg
            | K::tmm_rm
            | K::tmm_vvvv
            | K::bnd_reg
            | K::mem_mpx
            | K::mem_mib
            | K::xbegin_2
            | K::xbegin_4
            | K::brdisp_2
            | K::brdisp_4
    )
}

fn system(m: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        m,
        M::Lds
            | M::Les
            | M::Lfs
            | M::Lgs
            | M::Lss
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Arpl
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Retf
            | M::Int
            | M::Int1
            | M::Int3
            | M::Into
            | M::Cpuid
            | M::Xgetbv
            | M::Xsave
            | M::Xsave64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xrstor
            | M::Xrstor64
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
    )
}

fn host(m: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        m,
        M::Syscall
            | M::Sysenter
            | M::Sysexit
            | M::Sysexitq
            | M::Sysret
            | M::Sysretq
            | M::Wrfsbase
            | M::Wrgsbase
            | M::Rdfsbase
            | M::Rdgsbase
            | M::Wrpkru
            | M::Rdpkru
            | M::Vmcall
            | M::Vmmcall
            | M::Vmgexit
            | M::Tdcall
            | M::Seamcall
            | M::Enqcmd
            | M::Monitorx
            | M::Mwaitx
            | M::Umonitor
            | M::Umwait
            | M::Tpause
            | M::Senduipi
            | M::Uiret
            | M::Clui
            | M::Stui
            | M::Testui
            | M::Xbegin
            | M::Xend
            | M::Xabort
            | M::Xtest
            | M::Ptwrite
            | M::Clzero
    )
}

fn random(m: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        m,
        M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdpid | M::Rdrand | M::Rdseed | M::Rdpru
    )
}
