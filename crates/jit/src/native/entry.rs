//! The way into and out of a stub: host state is saved, the guest's registers
//! are loaded, the stub runs its one instruction, and all is swapped back.
#![allow(
    unsafe_code,
    reason = "host CPUID and the layout shared with generated code"
)]

use std::mem::offset_of;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::cpu::XSAVE_SIZE;
use x86::xstate;

/// Bytes the bounce buffer holds (the largest operand is an XSAVE image).
pub const BOUNCE_SIZE: usize = 4096;

/// State shared with generated code, which keeps its address in R15 from entry
/// to exit. Written by `run` before the call and read after it.
#[repr(C, align(64))]
pub struct Frame {
    /// Host registers 0..=15 as the instruction sees and leaves them; the
    /// slots of RSP and R15 are unused.
    pub gpr: [u64; 16],
    /// Arithmetic flags in, RFLAGS out.
    pub rflags: u64,
    /// Host address of the operand in the bounce buffer.
    pub mem: u64,
    /// Host address of the guest's XSAVE image.
    pub image: u64,
    /// Requested-feature bitmap of XRSTOR/XSAVE; 0 leaves vector state alone.
    pub rfbm: u64,
    /// Address of the stub.
    pub stub: u64,
    /// Address where a fault resumes.
    pub exit: u64,
    /// Nonzero if a fault was taken.
    pub faulted: u32,
    /// Its vector.
    pub vector: u32,
    /// Its error code.
    pub error: u32,
    /// The host's MXCSR.
    pub mxcsr: u32,
    /// The host's x87 control word.
    pub fcw: u32,
    /// Padding keeps the bounce buffer's start explicit.
    pub reserved: [u32; 1],
    /// The memory operand, at the offset within 64 bytes that the guest's
    /// operand has.
    pub bounce: Bounce,
}

/// The bounce buffer, with room for the largest alignment offset.
#[repr(C, align(64))]
pub struct Bounce(pub [u8; BOUNCE_SIZE + 64]);

/// How this host saves vector state.
#[derive(Clone, Copy, Debug)]
pub struct HostFpu {
    /// XCR0 restricted to what the guest image holds; 0 without OSXSAVE, when
    /// FXSAVE is used.
    pub xcr0: u64,
    /// CPUID.7.0:EBX\[13\]: FCS and FDS are stored as 0.
    pub no_fcs: bool,
}

impl HostFpu {
    /// Asks the host CPU.
    pub fn detect() -> Self {
        use core::arch::x86_64::{__cpuid, __cpuid_count};
        let osxsave = __cpuid(1).ecx & (1 << 27) != 0;
        let leaf7 = if __cpuid(0).eax >= 7 {
            __cpuid_count(7, 0).ebx
        } else {
            0
        };
        let (known, _) = components();
        Self {
            xcr0: if osxsave { xgetbv0() & known } else { 0 },
            no_fcs: leaf7 & (1 << 13) != 0,
        }
    }
    /// The components to swap for a guest with `xcr0`.
    pub fn mask(self, xcr0: u64) -> u64 {
        let legacy = xstate::X87 | xstate::SSE;
        if self.xcr0 == 0 {
            legacy
        } else {
            (xcr0 & self.xcr0) | legacy
        }
    }
}

/// This host's processor is one of AMD's. Flags that the manual leaves undefined
/// and the x87's pointers are others there than Intel's, which the interpreter has.
pub fn host_is_amd() -> bool {
    let leaf = core::arch::x86_64::__cpuid(0);
    let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    name.concat() == b"AuthenticAMD"
}

/// XCR0 components of this host that a guest image can hold, and their places
/// in it. AVX-512 counts only as a whole.
pub fn components() -> (u64, xstate::Layout) {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    let mut known = xstate::X87 | xstate::SSE;
    let mut layout = xstate::Layout::INTEL;
    if __cpuid(1).ecx & (1 << 26) == 0 {
        return (known, layout); // no XSAVE
    }
    let leaf = __cpuid_count(0xd, 0);
    let have = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
    let mut take = |component: u64, place: &mut usize, size: usize| {
        if have & component == 0 {
            return;
        }
        let leaf = __cpuid_count(0xd, component.trailing_zeros());
        let at = leaf.ebx as usize;
        if leaf.eax as usize == size && at + size <= XSAVE_SIZE {
            known |= component;
            *place = at;
        }
    };
    take(xstate::AVX, &mut layout.avx, 256);
    take(xstate::OPMASK, &mut layout.opmask, 64);
    take(xstate::ZMM_HI256, &mut layout.zmm_hi256, 512);
    take(xstate::HI16_ZMM, &mut layout.hi16_zmm, 1024);
    if known & xstate::AVX512 != xstate::AVX512 {
        known &= !xstate::AVX512;
    }
    (known, layout)
}

fn xgetbv0() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: the caller saw CPUID.1:ECX.OSXSAVE, so XGETBV(0) is available;
    // it reads a register and touches nothing else.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") lo, out("edx") hi,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(lo) | u64::from(hi) << 32
}

/// The registers swapped through [`Frame::gpr`]: all but RSP and R15.
const SWAPPED: [(usize, AsmRegister64); 14] = [
    (0, rax),
    (1, rcx),
    (2, rdx),
    (3, rbx),
    (5, rbp),
    (6, rsi),
    (7, rdi),
    (8, r8),
    (9, r9),
    (10, r10),
    (11, r11),
    (12, r12),
    (13, r13),
    (14, r14),
];
const CALLEE_SAVED: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];

/// Assembles `extern "sysv64" fn(*mut Frame)` for address `at`. Returns the
/// code and the offset of the exit, to which stubs jump.
pub fn assemble(at: u64, fpu: HostFpu) -> Result<(Vec<u8>, usize), IcedError> {
    let mut a = CodeAssembler::new(64)?;
    for reg in CALLEE_SAVED {
        a.push(reg)?;
    }
    a.mov(r15, rdi)?;
    let mut no_fpu = a.create_label();
    a.cmp(qword_ptr(r15 + offset_of!(Frame, rfbm)), 0)?;
    a.je(no_fpu)?;
    a.stmxcsr(dword_ptr(r15 + offset_of!(Frame, mxcsr)))?;
    a.fnstcw(word_ptr(r15 + offset_of!(Frame, fcw)))?;
    swap_image(&mut a, fpu, true)?;
    a.set_label(&mut no_fpu)?;
    a.push(qword_ptr(r15 + offset_of!(Frame, rflags)))?;
    a.popfq()?;
    for (i, reg) in SWAPPED {
        a.mov(reg, qword_ptr(r15 + offset_of!(Frame, gpr) + i * 8))?;
    }
    a.jmp(qword_ptr(r15 + offset_of!(Frame, stub)))?;

    let mut exit = a.create_label();
    a.set_label(&mut exit)?;
    for (i, reg) in SWAPPED {
        a.mov(qword_ptr(r15 + offset_of!(Frame, gpr) + i * 8), reg)?;
    }
    a.pushfq()?;
    a.pop(qword_ptr(r15 + offset_of!(Frame, rflags)))?;
    let mut done = a.create_label();
    a.cmp(qword_ptr(r15 + offset_of!(Frame, rfbm)), 0)?;
    a.je(done)?;
    swap_image(&mut a, fpu, false)?;
    // The SysV ABI wants x87 empty with the caller's control word, the
    // caller's MXCSR control bits, and clean upper halves (3.2.1, 3.2.3).
    a.fninit()?;
    a.fldcw(word_ptr(r15 + offset_of!(Frame, fcw)))?;
    a.ldmxcsr(dword_ptr(r15 + offset_of!(Frame, mxcsr)))?;
    if fpu.xcr0 & xstate::AVX != 0 {
        a.vzeroupper()?;
    }
    a.set_label(&mut done)?;
    for reg in CALLEE_SAVED.into_iter().rev() {
        a.pop(reg)?;
    }
    a.ret()?;

    let out = a.assemble_options(
        at,
        iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS,
    )?;
    let exit = out.label_ip(&exit)? - at;
    Ok((out.inner.code_buffer, exit as usize))
}

fn swap_image(a: &mut CodeAssembler, fpu: HostFpu, load: bool) -> Result<(), IcedError> {
    a.mov(rcx, qword_ptr(r15 + offset_of!(Frame, image)))?;
    a.mov(eax, dword_ptr(r15 + offset_of!(Frame, rfbm)))?;
    a.xor(edx, edx)?;
    match (fpu.xcr0 != 0, load) {
        (true, true) => a.xrstor64(ptr(rcx)),
        (true, false) => a.xsave64(ptr(rcx)),
        (false, true) => a.fxrstor64(ptr(rcx)),
        (false, false) => a.fxsave64(ptr(rcx)),
    }
}
