//! Interrupt descriptor table, 8259 pair and the handlers (Intel SDM vol. 3A,
//! chapter 6; Intel 8259A data sheet).

use crate::port::{in8, out8};
use crate::{apic, console, println};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What the stubs push, lowest address first.
#[repr(C)]
pub struct Frame {
    /// R15 .. RAX in the order of the stub.
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// First vector of the 8259 pair.
const PIC_BASE: u8 = 0x20;
/// Vector of the local APIC's timer.
pub const APIC_TIMER: u8 = 0x40;
/// Where spurious local APIC interrupts go.
pub const APIC_SPURIOUS: u8 = 0xff;

/// Interrupts seen from the 8254, COM1 and the local APIC timer.
pub static PIT_TICKS: AtomicU64 = AtomicU64::new(0);
pub static SERIAL_INTERRUPTS: AtomicU64 = AtomicU64::new(0);
pub static APIC_TICKS: AtomicU64 = AtomicU64::new(0);

/// Where an expected exception resumes; 0 when none is expected.
static RESUME: AtomicU64 = AtomicU64::new(0);
/// The last expected exception: vector, error code, CR2.
static SEEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

static mut TABLE: [[u64; 2]; 256] = [[0; 2]; 256];

unsafe extern "C" {
    static trap_stubs: u8;
}

/// Installs the table, moves the 8259 pair out of the exceptions' way and lets
/// timer and COM1 in.
pub fn init() {
    let stubs = &raw const trap_stubs as u64;
    let table = &raw mut TABLE;
    for vector in 0..256u64 {
        let handler = stubs + 16 * vector;
        // 64-bit interrupt gate, DPL 0, present, selector 8 (6.14.1).
        let low = handler & 0xffff | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        // SAFETY: runs once, before interrupts are on; nobody else uses the table.
        unsafe { (*table)[vector as usize] = [low, handler >> 32] };
    }
    let pointer: [u16; 5] = {
        let base = table as u64;
        [
            4095,
            base as u16,
            (base >> 16) as u16,
            (base >> 32) as u16,
            (base >> 48) as u16,
        ]
    };
    // SAFETY: the pointer names the table above, which lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack)) }
    let words = [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, PIC_BASE),
        (0xa1, PIC_BASE + 8),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
    ];
    for (port, word) in words {
        out8(port, word);
    }
    // Timer (0), cascade (2) and COM1 (4) only.
    out8(0x21, !0b1_0101);
    out8(0xa1, 0xff);
}

/// Runs `trial` expecting an exception that continues at `resume`; returns
/// (vector, error code, CR2) of what came.
pub fn expect(trial: impl FnOnce(&AtomicU64)) -> Option<(u64, u64, u64)> {
    SEEN[0].store(u64::MAX, Relaxed);
    trial(&RESUME);
    RESUME.store(0, Relaxed);
    let [vector, error, cr2] = [0, 1, 2].map(|i| SEEN[i].load(Relaxed));
    (vector != u64::MAX).then_some((vector, error, cr2))
}

#[unsafe(no_mangle)]
extern "C" fn on_trap(frame: &mut Frame) {
    match frame.vector as u8 {
        vector if vector < 32 => on_exception(frame),
        PIC_BASE => {
            PIT_TICKS.fetch_add(1, Relaxed);
            out8(0x20, 0x20);
        }
        vector if vector == PIC_BASE + 4 => {
            SERIAL_INTERRUPTS.fetch_add(1, Relaxed);
            console::on_interrupt();
            out8(0x20, 0x20);
        }
        APIC_TIMER => {
            APIC_TICKS.fetch_add(1, Relaxed);
            apic::end_of_interrupt();
        }
        // Spurious ones are not acknowledged: IRQ 7 without its in-service
        // bit (8259A, "default IR7"), and the APIC's own vector.
        vector if vector == PIC_BASE + 7 => {
            out8(0x20, 0x0b);
            if in8(0x20) & 0x80 != 0 {
                out8(0x20, 0x20);
            }
        }
        APIC_SPURIOUS => {}
        vector => println!("unexpected interrupt {vector:#x}"),
    }
}

fn on_exception(frame: &mut Frame) {
    let cr2: u64;
    // SAFETY: reading CR2 has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack)) }
    let resume = RESUME.swap(0, Relaxed);
    if resume == 0 {
        panic!(
            "exception {} error {:#x} at {:#x}, CR2 {cr2:#x}",
            frame.vector, frame.error, frame.rip
        );
    }
    for (slot, value) in SEEN.iter().zip([frame.vector, frame.error, cr2]) {
        slot.store(value, Relaxed);
    }
    frame.rip = resume;
}

global_asm!(
    r#"
    .text
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector >= 32) || !((0x60227d00 >> vector) & 1)
    pushq $0                    // the CPU pushes no error code here
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr
trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    movq %rsp, %rbp
    cld
    subq $512, %rsp
    andq $-16, %rsp
    fxsaveq (%rsp)
    call on_trap
    fxrstorq (%rsp)
    movq %rbp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq
"#,
    options(att_syntax)
);
