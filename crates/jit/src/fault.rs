//! Host signals raised by generated code.
//!
//! Generated code may fault on purpose: an unmasked floating-point exception,
//! an instruction the host lacks, an alignment fault. [`register`] announces a
//! range of code addresses and a [`Handler`]; the process-wide signal handler
//! looks the interrupted PC up in a small lock-free table and lets that handler
//! change the interrupted context. Signals from anywhere else go to whoever
//! handled them before.
#![allow(
    unsafe_code,
    reason = "installs signal handlers and edits signal contexts"
)]

use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a handler gets: the signal and the interrupted context, which it may
/// change (registers, RIP) before execution resumes from it.
#[derive(Debug)]
pub struct Fault<'a> {
    /// Signal number.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`: for SIGSEGV from a page fault the linear address.
    pub addr: usize,
    /// The interrupted context.
    pub context: &'a mut libc::ucontext_t,
}

impl Fault<'_> {
    /// A general register by its `libc::REG_*` index.
    pub fn reg(&self, index: i32) -> u64 {
        self.context.uc_mcontext.gregs[index as usize].cast_unsigned()
    }
    /// Changes a general register by its `libc::REG_*` index.
    pub fn set_reg(&mut self, index: i32, value: u64) {
        self.context.uc_mcontext.gregs[index as usize] = value.cast_signed();
    }
    /// The exception vector that caused the signal.
    pub fn vector(&self) -> u8 {
        self.reg(libc::REG_TRAPNO) as u8
    }
    /// The error code the CPU pushed (0 for vectors without one).
    pub fn error_code(&self) -> u32 {
        self.reg(libc::REG_ERR) as u32
    }
}

/// Recovers from a fault inside a registered range: true resumes from the
/// (changed) context, false passes the signal on. Runs in signal context: it
/// must not allocate, lock or panic.
pub type Handler = fn(&mut Fault<'_>) -> bool;

const SLOTS: usize = 256;

/// One row of the table. A row is free while `handler` is 0; `start` and `end`
/// are written before `handler` is published and ignored otherwise.
struct Row {
    claimed: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    handler: AtomicUsize,
}

static TABLE: [Row; SLOTS] = [const {
    Row {
        claimed: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        handler: AtomicUsize::new(0),
    }
}; SLOTS];

/// A registered range; dropping it removes the range.
#[derive(Debug)]
#[must_use = "dropping a registration removes it"]
pub struct Registration(usize);

impl Drop for Registration {
    fn drop(&mut self) {
        let row = &TABLE[self.0];
        row.handler.store(0, Ordering::Release);
        row.claimed.store(0, Ordering::Release);
    }
}

/// Sends faults whose PC lies in `range` to `handler`, and makes sure the
/// process-wide signal handler is installed. Ranges may overlap: a handler
/// that returns false leaves the fault to the others. An end of `usize::MAX`
/// includes that address.
///
/// # Errors
/// `sigaction` failed, or 256 ranges are registered already.
pub fn register(range: Range<usize>, handler: Handler) -> io::Result<Registration> {
    install()?;
    for (i, row) in TABLE.iter().enumerate() {
        let free = row
            .claimed
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        if free.is_ok() {
            row.start.store(range.start, Ordering::Relaxed);
            row.end.store(range.end, Ordering::Relaxed);
            row.handler.store(handler as usize, Ordering::Release);
            return Ok(Registration(i));
        }
    }
    Err(io::Error::other("all 256 code ranges are in use"))
}

/// Offers the fault to every range that holds `pc`.
fn dispatch(pc: usize, fault: &mut Fault<'_>) -> bool {
    TABLE.iter().any(|row| {
        let handler = row.handler.load(Ordering::Acquire);
        let range = row.start.load(Ordering::Relaxed)..row.end.load(Ordering::Relaxed);
        let last = pc == usize::MAX && range.end == usize::MAX;
        if handler == 0 || !(range.contains(&pc) || last) {
            return false;
        }
        // SAFETY: a non-zero value was stored by `register` from a `Handler`.
        let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
        handler(fault)
    })
}

const SIGNALS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGBUS,
    libc::SIGTRAP,
];

/// What handled each of [`SIGNALS`] before us.
static PREVIOUS: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| install_once().map_err(|e| e.raw_os_error().unwrap_or(libc::EINVAL)))
        .map_err(io::Error::from_raw_os_error)
}

fn install_once() -> io::Result<()> {
    // SAFETY: all-zero is a valid `sigaction` (default action, empty mask).
    let mut previous: [libc::sigaction; SIGNALS.len()] = unsafe { std::mem::zeroed() };
    for (signal, old) in SIGNALS.into_iter().zip(&mut previous) {
        // SAFETY: queries the current action into a valid struct.
        if unsafe { libc::sigaction(signal, std::ptr::null(), old) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    PREVIOUS.get_or_init(|| previous);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    // ONSTACK: translated code runs with the guest's stack pointer. NODEFER:
    // the handler's own resumption never leaves the signal blocked.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    for signal in SIGNALS {
        // SAFETY: `on_signal` has the SA_SIGINFO signature and is
        // async-signal-safe (atomics and the handlers' contract).
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// # Safety
/// Called by the kernel only, with a valid siginfo and ucontext.
unsafe extern "C" fn on_signal(
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // The kernel leaves alignment checks on if the guest's code had them.
    // SAFETY: changes RFLAGS.AC only.
    unsafe { std::arch::asm!("pushfq", "and dword ptr [rsp], 0xfffbffff", "popfq") };
    // SAFETY: SA_SIGINFO handlers get valid, exclusive pointers for their
    // duration.
    let mut fault = unsafe {
        Fault {
            signal,
            code: (*info).si_code,
            addr: (*info).si_addr() as usize,
            context: &mut *context.cast::<libc::ucontext_t>(),
        }
    };
    let pc = fault.reg(libc::REG_RIP) as usize;
    if dispatch(pc, &mut fault) {
        return;
    }
    // SAFETY: same arguments as the kernel gave us.
    unsafe { chain(signal, info, context) };
}

/// Passes the signal to the previous handler, or restores the default action
/// and returns, so that the instruction faults again and the process ends as
/// it would have without us.
///
/// # Safety
/// `info` and `context` are the kernel's for this signal.
unsafe fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = SIGNALS
        .iter()
        .position(|&s| s == signal)
        .and_then(|i| PREVIOUS.get().map(|p| &p[i]));
    match previous {
        Some(p) if p.sa_sigaction != libc::SIG_DFL && p.sa_sigaction != libc::SIG_IGN => {
            if p.sa_flags & libc::SA_SIGINFO != 0 {
                type Action = unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
                // SAFETY: with SA_SIGINFO the address is such a function.
                unsafe {
                    std::mem::transmute::<usize, Action>(p.sa_sigaction)(signal, info, context);
                }
            } else {
                // SAFETY: without SA_SIGINFO the address is a one-argument
                // handler.
                unsafe {
                    std::mem::transmute::<usize, extern "C" fn(i32)>(p.sa_sigaction)(signal);
                }
            }
        }
        _ => {
            // SAFETY: SIG_DFL is a valid action for every signal in SIGNALS.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Gives the calling thread an alternate signal stack of 64 KiB if it has a
/// smaller one or none: needed by every thread that runs code whose RSP is not
/// a host stack. The stack is leaked with the thread's own lifetime unknown to
/// us: one per thread, kept until the process ends.
///
/// # Errors
/// `mmap` or `sigaltstack` failed.
pub fn ensure_alt_stack() -> io::Result<()> {
    const SIZE: usize = 64 << 10;
    // SAFETY: all-zero is a valid `stack_t`; the call fills it.
    let mut current: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: queries into a valid struct.
    if unsafe { libc::sigaltstack(std::ptr::null(), &mut current) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if current.ss_flags & libc::SS_DISABLE == 0 && current.ss_size >= SIZE {
        return Ok(());
    }
    // SAFETY: a new private mapping at an address of the kernel's choice.
    let stack = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if stack == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let new = libc::stack_t {
        ss_sp: stack,
        ss_flags: 0,
        ss_size: SIZE,
    };
    // SAFETY: the mapping is never unmapped, so it outlives the thread.
    if unsafe { libc::sigaltstack(&new, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
