//! What generated code knows about the vCPU's memory: offsets from GS.

use crate::gates::FlatSegments;
use crate::returns::Returns;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64};
use x86::cpu::XsaveArea;

/// Why generated code returned to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitKind {
    /// A direct jump whose link is not made yet; `exit_site` is the link.
    Link = 0,
    /// A jump missed the jump cache; RIP is the target, `exit_site` the branch
    /// if it was an indirect one.
    Lookup = 1,
    /// The instruction numbered `exit_site` is for the interpreter.
    Interp = 2,
    /// The memory access at RIP is for the interpreter.
    Access = 3,
    /// A memory access faults; the slow path recorded the exception.
    Fault = 4,
    /// The poll word was set; RIP is the next instruction.
    Poll = 5,
}

impl ExitKind {
    /// From the number in [`JitCtx::exit_kind`].
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Link,
            1 => Self::Lookup,
            2 => Self::Interp,
            3 => Self::Access,
            4 => Self::Fault,
            _ => Self::Poll,
        }
    }
}

/// What decides which translations run, as far as generated code changes it:
/// indices of [`JitCtx::jump_caches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Realm {
    /// CPL 3.
    User = 0,
    /// CPL 0 with RFLAGS.AC clear.
    Kernel = 1,
    /// CPL 0 with RFLAGS.AC set.
    KernelAc = 2,
}

impl Realm {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::User, Self::Kernel, Self::KernelAc];
}

/// Bytes of the widest operand that generated code accesses.
pub const WIDEST: usize = 64;

/// Room for an operand wherever it begins in [`WIDEST`] bytes: what is aligned in
/// the guest is so here, and what is not is not.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Gathered(pub [u8; 2 * WIDEST]);

/// The part of a vCPU's memory that only generated code and its driver use.
#[repr(C)]
#[derive(Debug)]
pub struct JitCtx {
    /// Non-zero asks generated code to return at its next poll; so does
    /// [`crate::cache::JumpCache::lead_nowhere`] with `jump_caches`.
    pub poll: AtomicU32,
    /// The guest's vector state is in the host's registers; in a slow path, in
    /// `aside`.
    pub vec_loaded: u32,
    /// An interrupt waits until RFLAGS.IF is set.
    pub irq_waiting: u32,
    /// [`ExitKind`] of the last return.
    pub exit_kind: u32,
    /// Argument of the last return.
    pub exit_site: u32,
    /// Accesses to pages in their other place in the TLB until one takes the slow
    /// path, which moves its page to the first: those used most are there in time.
    pub until_moved: u32,
    /// Host stack pointer in Rust's part of the stack.
    pub host_rsp: u64,
    /// That of generated code, at the slot for flags.
    pub frame: u64,
    /// A value set aside across a second check.
    pub temp: u64,
    /// What has to be added to the addresses in translations that run wherever
    /// their page is mapped: the linear address of that page; 0 in others.
    pub page: u64,
    /// Starts of the jump caches in force, by [`Realm`]. Generated code only reads
    /// them, so nobody needs a fence to empty them.
    pub jump_caches: [AtomicU64; Realm::ALL.len()],
    /// What the guest's TSC is ahead of the host's.
    pub tsc_offset: u64,
    /// Address of the vCPU memory itself (GS base).
    pub this: *mut c_void,
    /// The slow path of accesses: `fn(this, linear address, info, return PC) ->
    /// u32`, 0 = go on with the operand at `found`.
    pub slow: u64,
    /// That of strings: `fn(this, 0, info, return PC) -> u32`, 0 = done.
    pub string: u64,
    /// Host address of the operand that the slow path was asked for.
    pub found: u64,
    /// The guest's vector state during a slow path if it was loaded. Components in
    /// their initial state may not be written.
    pub aside: XsaveArea,
    /// What SYSCALL and SYSRET load.
    pub segments: FlatSegments,
    /// An operand read from two pages that are not neighbours in host memory.
    pub gathered: Gathered,
    /// XSAVE mask for guest vector state, 0 = use FXSAVE.
    pub xsave_mask: u64,
    /// Address of an initial XSAVE image, the state Rust code expects.
    pub host_xsave: u64,
    /// Table of instructions that may raise host exceptions.
    pub faults: *const crate::cache::FaultTable,
    /// Address of the guest's RIP.
    pub rip: *mut u64,
    /// Where returns are expected to lead, by [`Realm`].
    pub returns: [Returns; Realm::ALL.len()],
}

/// Offsets, relative to GS, of what generated code touches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// [`JitCtx`].
    pub jit: u32,
    /// `gpr[0]`.
    pub gpr: u32,
    /// RIP.
    pub rip: u32,
    /// RFLAGS.
    pub rflags: u32,
    /// Base field of the FS segment.
    pub fs_base: u32,
    /// Base field of the GS segment.
    pub gs_base: u32,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u32,
    /// IA32_TSC_AUX.
    pub tsc_aux: u32,
    /// CR0, CR2, CR3 and CR4.
    pub control: [u32; 4],
    /// Selector field of the ES segment; the others follow at `seg_stride`.
    pub selectors: u32,
    /// Bytes from one segment register to the next.
    pub seg_stride: u32,
    /// What privilege changes use.
    pub gates: GateLayout,
    /// The XSAVE image.
    pub xsave: u32,
    /// Addresses of the first-level TLB arrays by bank. In front of the first there is
    /// a stack, in front of the entries of each the copy of one.
    pub tlb: u32,
    /// Bytes from the first array to the second, and from that to the third, as
    /// generated code finds them behind its stack.
    pub array_size: u32,
    /// Offsets of the fields of a TLB entry: read tag, write tag, host page.
    pub entry: [u32; 3],
    /// log2 of the size of a TLB entry.
    pub entry_shift: u8,
    /// Entries per TLB array, a power of two.
    pub entries: u32,
    /// What an address is shifted right by and a TLB index XORed with for the
    /// other place of its page.
    pub other_shift: u8,
}

/// Offsets, relative to GS, of what only SYSCALL, SYSRET and IRET touch.
#[derive(Clone, Copy, Debug, Default)]
pub struct GateLayout {
    /// EFER.
    pub efer: u32,
    /// IA32_LSTAR.
    pub lstar: u32,
    /// IA32_FMASK.
    pub sfmask: u32,
    /// Base of the GDT.
    pub gdt_base: u32,
    /// Its limit, 16 bits.
    pub gdt_limit: u32,
    /// The CS register, a [`x86::Segment`].
    pub cs: u32,
    /// The SS register likewise.
    pub ss: u32,
    /// A byte: NMIs are blocked until IRET.
    pub nmi_blocked: u32,
}

macro_rules! jit_field {
    ($($name:ident),*) => {
        $(pub(crate) const fn $name(&self) -> u32 {
            self.jit + std::mem::offset_of!(JitCtx, $name) as u32
        })*
    };
}

impl Layout {
    jit_field!(
        poll,
        vec_loaded,
        irq_waiting,
        exit_kind,
        exit_site,
        until_moved,
        host_rsp,
        frame,
        temp,
        page,
        tsc_offset,
        this,
        slow,
        string,
        found,
        aside,
        segments,
        gathered,
        xsave_mask,
        host_xsave,
        returns
    );
    /// Where [`JitCtx::jump_caches`] has the one of a realm.
    pub(crate) const fn jump_cache(&self, realm: usize) -> u32 {
        self.jit + std::mem::offset_of!(JitCtx, jump_caches) as u32 + 8 * realm as u32
    }
    /// A general register's slot.
    pub(crate) const fn reg(&self, n: usize) -> u32 {
        self.gpr + 8 * n as u32
    }
}
