//! Runs a case on the host CPU: the original bytes, at the case's address, in
//! the case's mode, on the case's registers and memory.
//!
//! The way in is the return from a signal handler with a rewritten context,
//! which can load every register, the flags and the code segment at once. TF
//! is set, so the way out is the #DB after one instruction, or the
//! instruction's own fault: both arrive as a signal with the whole state.
#![allow(
    unsafe_code,
    reason = "executes arbitrary instructions in this process"
)]

use std::cell::UnsafeCell;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iced_x86::Instruction;
use jit::fault::{self, Fault, Registration};
use x86::cpu::{XSAVE_SIZE, XsaveArea};
use x86::{Exception, flags, vector};

use crate::case::{Case, Executor, GS_BASE, GS_SELECTOR, Outcome};
use crate::window::Window;

/// What the next signal means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not ours.
    Idle,
    /// The `int3` that starts a case.
    Enter,
    /// The guest instruction has run, or a `rep` iteration, or it faulted.
    Running,
}

/// Shared by `Metal::run` and the signal handler on the same thread.
struct Switch {
    phase: Phase,
    host_regs: [i64; 23],
    host_fp: [u8; FP_MAX],
    guest_regs: [i64; 23],
    guest_fp: XsaveArea,
    vector: u8,
    error: u32,
    addr: u64,
    steps: u32,
    repeat: bool,
}

const FP_MAX: usize = 16 << 10;
/// `rep` iterations before a case is given up.
const MAX_STEPS: u32 = 1000;
/// Software-reserved bytes of the FXSAVE area, used by the kernel.
const SW_RESERVED: std::ops::Range<usize> = 464..512;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
/// Flags that a signal return loads; the rest stay as the kernel has them.
const LOADED: u64 = flags::ARITH | flags::DF | flags::AC | flags::TF;

struct Shared(UnsafeCell<Switch>);
// SAFETY: only the holder of OWNER touches it, from one thread, and the signal
// handler runs on that thread while `run` waits in `int3`.
unsafe impl Sync for Shared {}

static SWITCH: Shared = Shared(UnsafeCell::new(Switch {
    phase: Phase::Idle,
    host_regs: [0; 23],
    host_fp: [0; FP_MAX],
    guest_regs: [0; 23],
    guest_fp: XsaveArea([0; XSAVE_SIZE]),
    vector: 0,
    error: 0,
    addr: 0,
    steps: 0,
    repeat: false,
}));
static OWNER: Mutex<()> = Mutex::new(());
static WINDOW: Mutex<Option<Window>> = Mutex::new(None);

/// The host CPU. One at a time per process: others wait in [`Metal::new`].
pub struct Metal {
    window: MutexGuard<'static, Option<Window>>,
    _faults: Registration,
    _owner: MutexGuard<'static, ()>,
}

impl Metal {
    /// Maps the window and prepares this thread's segments and signal stack.
    ///
    /// # Errors
    /// The host refuses a mapping, a signal handler or a GDT entry.
    pub fn new() -> io::Result<Self> {
        let owner = OWNER.lock().unwrap_or_else(PoisonError::into_inner);
        let mut window = WINDOW.lock().unwrap_or_else(PoisonError::into_inner);
        if window.is_none() {
            *window = Some(Window::new()?);
        }
        fault::ensure_alt_stack()?;
        let faults = fault::register(0..usize::MAX, on_fault)?;
        load_segments()?;
        Ok(Self {
            window,
            _faults: faults,
            _owner: owner,
        })
    }
}

/// Layout of `struct user_desc` (modify_ldt(2)).
#[repr(C)]
struct UserDesc {
    entry: u32,
    base: u32,
    limit: u32,
    /// 32-bit segment, limit in pages, usable.
    bits: u32,
}

/// Loads DS and ES with the flat user segment that 32-bit code needs and GS
/// with a segment of base [`GS_BASE`]. 64-bit Rust code uses none of them.
fn load_segments() -> io::Result<()> {
    let mut desc = UserDesc {
        entry: u32::from(GS_SELECTOR >> 3),
        base: GS_BASE as u32,
        limit: 0xf_ffff,
        bits: 0b101_0001,
    };
    const WRITE_ENTRY: i32 = 0x11;
    let size = std::mem::size_of::<UserDesc>();
    // SAFETY: passes a valid user_desc; adds an LDT entry, which 64-bit glibc
    // and Rust do not use.
    if unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE_ENTRY, &raw mut desc, size) } != 0 {
        return Err(io::Error::last_os_error());
    }
    load_selectors();
    Ok(())
}

/// Before every case: other users of this thread may have changed GS.
fn load_selectors() {
    // SAFETY: 0x2b is Linux's flat user data segment, GS_SELECTOR the entry
    // `load_segments` set; Rust on x86-64 uses FS only.
    unsafe {
        core::arch::asm!(
            "mov ds, {ds:e}", "mov es, {ds:e}", "mov gs, {gs:e}",
            ds = in(reg) 0x2b_u32, gs = in(reg) u32::from(GS_SELECTOR),
            options(nostack, preserves_flags)
        );
    }
}

/// `greg` indices of RAX..R15 in register-number order.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Can a single-step trap come before the instruction is complete? Between
/// iterations of `rep`, and for a gather or scatter that made progress before
/// an element faulted (SDM vol 2, VGATHERDPS).
fn restarts(insn: &Instruction) -> bool {
    insn.has_rep_prefix() || insn.has_repne_prefix() || insn.is_vsib()
}

fn guest_regs(case: &Case) -> [i64; 23] {
    let mut r = [0i64; 23];
    for (&at, &v) in GREGS.iter().zip(&case.gpr) {
        r[at as usize] = v.cast_signed();
    }
    r[libc::REG_RIP as usize] = case.rip.cast_signed();
    r[libc::REG_EFL as usize] = (case.rflags & LOADED | flags::IF | flags::FIXED1).cast_signed();
    let cs: u64 = if case.bits == 64 { 0x33 } else { 0x23 };
    // cs, gs, fs, ss: 16 bits each; only cs and ss are loaded.
    r[libc::REG_CSGSFS as usize] = (cs | 0x2b << 48).cast_signed();
    r
}

impl Executor for Metal {
    fn name(&self) -> &'static str {
        "host CPU"
    }

    fn run(&mut self, case: &Case) -> Outcome {
        let Some(window) = self.window.as_mut() else {
            unreachable!("new() made it")
        };
        window.set_data(&case.mem);
        assert!(window.set_code(case.rip, &case.bytes), "code window");
        load_selectors();
        let s = SWITCH.0.get();
        // SAFETY: we hold OWNER, and no signal of ours is pending: exclusive.
        // `int3` enters `on_fault`, which saves all registers, runs the case
        // and restores them; the flags the guest leaves behind outside the
        // signal frame (NT, ID, IOPL) are reset by the popfq.
        unsafe {
            (*s).guest_regs = guest_regs(case);
            (*s).guest_fp.0.copy_from_slice(&case.xsave.0);
            (*s).steps = 0;
            (*s).repeat = restarts(&case.insn);
            (*s).phase = Phase::Enter;
            core::arch::asm!("int3", "push 0x202", "popfq");
        }
        // SAFETY: as above; the handler is done.
        let s = unsafe { &*s };
        let rflags = s.guest_regs[libc::REG_EFL as usize].cast_unsigned();
        Outcome {
            gpr: GREGS.map(|r| s.guest_regs[r as usize].cast_unsigned()),
            rip: s.guest_regs[libc::REG_RIP as usize].cast_unsigned(),
            rflags: rflags & !flags::RF,
            xsave: s.guest_fp.clone(),
            mem: window.data(),
            fault: exception(s),
        }
    }
}

fn exception(s: &Switch) -> Option<Exception> {
    let coded = Exception {
        vector: s.vector,
        error: Some(s.error),
        payload: 0,
    };
    match s.vector {
        vector::DB => None,
        vector::PF => Some(Exception::pf(s.addr, s.error)),
        vector::GP | vector::SS | vector::NP | vector::TS | vector::AC => Some(coded),
        _ => Some(Exception {
            error: None,
            ..coded
        }),
    }
}

fn on_fault(fault: &mut Fault<'_>) -> bool {
    let s = SWITCH.0.get();
    // SAFETY: signals of these kinds are synchronous; while the phase is not
    // Idle the faulting thread is the one inside `run`, which holds OWNER. In
    // phase Idle another thread may only read the phase.
    unsafe {
        match (*s).phase {
            Phase::Idle => false,
            Phase::Enter => {
                enter(&mut *s, fault);
                true
            }
            Phase::Running => {
                leave(&mut *s, fault);
                true
            }
        }
    }
}

/// # Safety
/// `fault` is a real signal context, so its FP pointer is valid.
unsafe fn fp_area(fault: &mut Fault<'_>) -> &'static mut [u8] {
    let fp = fault.context.uc_mcontext.fpregs.cast::<u8>();
    // SAFETY: the kernel writes at least the 512-byte FXSAVE area there; with
    // the magic number it is an XSAVE image of `xstate_size` bytes. Behind that
    // comes a second magic number, without which the kernel loads nothing but
    // the FXSAVE area.
    unsafe {
        let word = |at: usize| fp.add(at).cast::<u32>().read_unaligned();
        let len = if word(SW_RESERVED.start) == FP_XSTATE_MAGIC1 {
            word(SW_RESERVED.start + 16) as usize
        } else {
            512
        };
        std::slice::from_raw_parts_mut(fp, len.min(FP_MAX))
    }
}

/// # Safety
/// `fault` is a real signal context.
unsafe fn enter(s: &mut Switch, fault: &mut Fault<'_>) {
    s.host_regs = fault.context.uc_mcontext.gregs;
    // SAFETY: passed on.
    let fp = unsafe { fp_area(fault) };
    s.host_fp[..fp.len()].copy_from_slice(fp);
    let n = fp.len().min(XSAVE_SIZE);
    fp[..SW_RESERVED.start].copy_from_slice(&s.guest_fp.0[..SW_RESERVED.start]);
    if n > 512 {
        let features: [u8; 8] = s.host_fp[472..480].try_into().unwrap_or([0; 8]);
        let mask = u64::from_le_bytes(features) & 0xe7;
        let bv = mask.to_le_bytes();
        fp[512..520].copy_from_slice(&bv);
        fp[576..n].copy_from_slice(&s.guest_fp.0[576..n]);
    }
    load_regs(fault, &s.guest_regs);
    s.phase = Phase::Running;
}

/// # Safety
/// `fault` is a real signal context.
unsafe fn leave(s: &mut Switch, fault: &mut Fault<'_>) {
    let again = s.repeat
        && fault.vector() == vector::DB
        && fault.reg(libc::REG_RIP) == s.guest_regs[libc::REG_RIP as usize].cast_unsigned();
    if again && s.steps < MAX_STEPS {
        s.steps += 1;
        return; // one iteration of a rep instruction; TF is still set
    }
    s.vector = fault.vector();
    s.error = fault.error_code();
    s.addr = fault.reg(libc::REG_CR2);
    s.guest_regs = fault.context.uc_mcontext.gregs;
    // SAFETY: passed on.
    let fp = unsafe { fp_area(fault) };
    let n = fp.len().min(XSAVE_SIZE);
    s.guest_fp.0[..n].copy_from_slice(&fp[..n]);
    s.guest_fp.0[SW_RESERVED].fill(0);
    fp.copy_from_slice(&s.host_fp[..fp.len()]);
    let host = s.host_regs;
    load_regs(fault, &host);
    s.phase = Phase::Idle;
}

fn load_regs(fault: &mut Fault<'_>, regs: &[i64; 23]) {
    for at in GREGS
        .into_iter()
        .chain([libc::REG_RIP, libc::REG_EFL, libc::REG_CSGSFS])
    {
        fault.set_reg(at, regs[at as usize].cast_unsigned());
    }
}
