//! Delivery of exceptions and interrupts (SDM vol 3, chapter 6 and vol 2,
//! INT n): the choice of mode, the double-fault rules and real mode. Gates are
//! in [`super::gate`].

use super::descriptor::linear;
use super::gate;
use super::stack::Stack;
use crate::{Access, Env, MmuEvent, Stop};
use x86::{CpuState, Exception, MpState, Seg, Shadow, dr, flags, gpr, vector};

/// Something to deliver through the IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A processor-detected exception; RIP is where the handler returns to.
    Exception(Exception),
    /// An external interrupt.
    Interrupt(u8),
    /// A non-maskable interrupt; blocks further ones until IRET.
    Nmi,
    /// INT n, INT3, INTO: the gate's DPL is checked, the handler returns to
    /// `next_rip`.
    SoftInt {
        /// The instruction's vector.
        vector: u8,
        /// RIP after the instruction.
        next_rip: u64,
    },
    /// INT1: a #DB without DPL check.
    Icebp {
        /// RIP after the instruction.
        next_rip: u64,
    },
}

impl Event {
    /// The IDT entry used.
    pub const fn vector(&self) -> u8 {
        match self {
            Self::Exception(e) => e.vector,
            Self::Interrupt(v) => *v,
            Self::Nmi => vector::NMI,
            Self::SoftInt { vector, .. } => *vector,
            Self::Icebp { .. } => vector::DB,
        }
    }
    /// The EXT bit of error codes raised while delivering it (SDM vol 3, 6.13).
    pub(crate) const fn ext(&self) -> u32 {
        !matches!(self, Self::SoftInt { .. }) as u32
    }
    /// True if the gate's DPL must allow the current privilege level.
    pub(crate) const fn checks_dpl(&self) -> bool {
        matches!(self, Self::SoftInt { .. })
    }
    /// The error code to push.
    pub(crate) const fn error(&self) -> Option<u32> {
        match self {
            Self::Exception(e) => e.error,
            _ => None,
        }
    }
    /// RIP in the pushed image.
    pub(crate) const fn return_rip(&self, cpu: &CpuState) -> u64 {
        match self {
            Self::SoftInt { next_rip, .. } | Self::Icebp { next_rip } => *next_rip,
            _ => cpu.rip,
        }
    }
    /// RFLAGS in the pushed image: faults set RF so that their instruction's
    /// breakpoint does not trigger again. #DB never does, not even for an
    /// instruction breakpoint: its handler sets RF (SDM vol 3, 17.3.1.1).
    pub(crate) const fn pushed_flags(&self, cpu: &CpuState) -> u64 {
        let fault = match self {
            Self::Exception(e) => !matches!(
                e.vector,
                vector::DB | vector::BP | vector::OF | vector::DF | vector::MC
            ),
            _ => false,
        };
        if fault {
            cpu.rflags | flags::RF
        } else {
            cpu.rflags
        }
    }
}

/// How an exception counts for double faults (SDM vol 3, table 6-4).
#[derive(PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(event: &Event) -> Class {
    match event {
        Event::Exception(e) if e.is_contributory() => Class::Contributory,
        Event::Exception(e) if e.vector == vector::PF => Class::PageFault,
        Event::Exception(e) if e.vector == vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What to deliver when delivering `first` raised `second`, or `None` for a
/// triple fault (SDM vol 3, table 6-5).
fn combine(first: &Event, second: Exception) -> Option<Exception> {
    let second_class = class(&Event::Exception(second));
    match (class(first), second_class) {
        (Class::Contributory, Class::Contributory)
        | (Class::PageFault, Class::Contributory | Class::PageFault) => Some(Exception::DF),
        (Class::DoubleFault, Class::Contributory | Class::PageFault) => None,
        _ => Some(second),
    }
}

/// Delivers `event`: on return the vCPU is at the handler's first
/// instruction. An exception on the way is delivered instead as the
/// double-fault rules say.
///
/// # Errors
/// [`Stop::Shutdown`] for a triple fault. [`Stop::Suspend`] if the environment
/// stopped an access: registers are unchanged but for CR2, DR6 and DR7.GD, and
/// the same event is to be delivered again.
pub fn deliver<E: Env>(cpu: &mut CpuState, env: &mut E, event: Event) -> Result<(), Stop> {
    let mut current = event;
    loop {
        apply_payload(cpu, &current);
        match deliver_once(cpu, env, &current) {
            Ok(()) => break,
            Err(Stop::Fault(second)) => {
                if second.vector == vector::PF {
                    // Loaded even if a double fault comes of it.
                    cpu.cr2 = second.payload;
                }
                match combine(&current, second) {
                    Some(next) => current = Event::Exception(next),
                    None => return Err(Stop::Shutdown),
                }
            }
            Err(stop) => return Err(stop),
        }
    }
    if current == Event::Nmi {
        cpu.events.nmi_blocked = true;
    }
    cpu.events.shadow = Shadow::None;
    if cpu.mp_state == MpState::Halted {
        cpu.mp_state = MpState::Runnable;
    }
    env.mmu(cpu, MmuEvent::Mode);
    Ok(())
}

/// CR2 and DR6/DR7 change as the exception is raised, before its delivery.
fn apply_payload(cpu: &mut CpuState, event: &Event) {
    if let Event::Exception(e) = event {
        match e.vector {
            vector::PF => cpu.cr2 = e.payload,
            vector::DB => {
                // B0..B3 report this exception only; BD, BS, BT are sticky
                // (SDM vol 3, 17.2.3).
                cpu.dr[6] = (cpu.dr[6] & !0xf) | e.payload;
                cpu.dr[7] &= !dr::DR7_GD;
            }
            _ => {}
        }
    }
}

fn deliver_once<E: Env>(cpu: &mut CpuState, env: &mut E, event: &Event) -> Result<(), Stop> {
    if cpu.cr0 & x86::cr0::PE == 0 {
        real_mode(cpu, env, event)
    } else if cpu.long_mode() {
        gate::long_mode(cpu, env, event)
    } else {
        gate::protected_mode(cpu, env, event)
    }
}

/// Real-address mode: four-byte vectors (SDM vol 3, 20.1.4).
fn real_mode<E: Env>(cpu: &mut CpuState, env: &mut E, event: &Event) -> Result<(), Stop> {
    let entry = u32::from(event.vector()) * 4;
    if entry + 3 > u32::from(cpu.idtr.limit) {
        return Err(Exception::GP0.into());
    }
    let la = linear(cpu, cpu.idtr.base.wrapping_add(u64::from(entry)));
    let target = env.load(cpu, la, 4, Access::SystemRead)?;
    enter_real(cpu, env, event, target)
}

/// Pushes the 16-bit frame and enters a `segment:offset` handler; also used
/// for interrupts redirected inside virtual-8086 mode (SDM vol 3, 20.3.3).
pub(crate) fn enter_real<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    event: &Event,
    target: u64,
) -> Result<(), Stop> {
    let mut image = event.pushed_flags(cpu);
    let vm86 = cpu.rflags & flags::VM != 0;
    let virtual_if = vm86 && cpu.rflags & flags::IOPL != flags::IOPL;
    if virtual_if {
        image = vme_image(cpu.rflags);
    }
    let frame = [
        image,
        u64::from(cpu.seg(Seg::Cs).selector),
        event.return_rip(cpu),
    ];
    let mut stack = Stack::current(cpu);
    stack.push_all(cpu, env, 2, &frame)?;
    super::load::set_real(cpu, Seg::Cs, (target >> 16) as u16);
    cpu.gpr[gpr::RSP] = stack.sp;
    cpu.rip = target & 0xffff;
    cpu.rflags &= !(flags::TF | flags::RF);
    if virtual_if {
        cpu.rflags &= !flags::VIF;
    } else {
        cpu.rflags &= !flags::IF;
    }
    if !vm86 {
        cpu.rflags &= !flags::AC;
    } else {
        cpu.rflags &= !flags::NT;
    }
    Ok(())
}

/// FLAGS as virtual-8086 code with VME sees them: IF is VIF, IOPL reads 3
/// (SDM vol 3, 20.3.3.3).
pub(crate) const fn vme_image(rflags: u64) -> u64 {
    let image = (rflags & !flags::IF) | flags::IOPL;
    if rflags & flags::VIF != 0 {
        image | flags::IF
    } else {
        image
    }
}
