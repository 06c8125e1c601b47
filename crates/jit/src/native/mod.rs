//! Executes one guest instruction on the host CPU.
//!
//! x87, MMX, SSE to AVX-512, AES, SHA, BMI and their like are not emulated:
//! the instruction is re-encoded for 64-bit mode with its memory operand
//! replaced by a bounce buffer and runs between a load and a store of the
//! guest's registers. What the host raises (#XM, #MF, #DE, #GP from a
//! misaligned operand, #UD for what it lacks) becomes the guest's exception.
#![allow(unsafe_code, reason = "runs generated code and takes its faults")]

mod entry;
mod rewrite;
#[cfg(test)]
mod tests;
mod x87;

use std::collections::HashMap;
use std::io;

use iced_x86::{Instruction, InstructionInfoFactory, Register};
use x86::{CpuState, Exception, Seg, flags, vector};

use crate::arena::Arena;
use crate::fault::{self, Fault, Registration};
use entry::{BOUNCE_SIZE, Bounce, Frame, HostFpu};
pub use entry::{components, host_is_amd};
use rewrite::{Mapped, Rewritten};

const ARENA_SIZE: usize = 1 << 20;
/// Stubs kept before all are dropped.
const MAX_STUBS: usize = 8192;

/// A compiled instruction.
#[derive(Clone, Debug)]
struct Stub {
    at: u64,
    gprs: Box<[Mapped]>,
    mem: Option<u8>,
    fpu: bool,
}

/// The executor. One per thread; it is `Send` but runs one instruction at a
/// time.
pub struct NativeExec {
    arena: Arena,
    frame: Box<Frame>,
    host: HostFpu,
    enter: extern "sysv64" fn(*mut Frame),
    /// First arena byte after the entry code.
    first_free: usize,
    next_free: usize,
    stubs: HashMap<Instruction, Option<Stub>>,
    info: InstructionInfoFactory,
    _faults: Registration,
}

impl std::fmt::Debug for NativeExec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeExec")
            .field("stubs", &self.stubs.len())
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl NativeExec {
    /// Maps a code arena and emits the entry code.
    ///
    /// # Errors
    /// The host refuses executable memory or signal handlers.
    pub fn new() -> io::Result<Self> {
        let host = HostFpu::detect();
        let mut arena = Arena::new(ARENA_SIZE)?;
        let (code, exit) = entry::assemble(arena.rx() as u64, host).map_err(io::Error::other)?;
        let at = arena.write(0, &code).ok_or(io::ErrorKind::OutOfMemory)?;
        let faults = fault::register(arena.rx_range(), on_fault)?;
        // SAFETY: `at` is the start of the code `assemble` made, which follows
        // the SysV ABI with one pointer argument; the arena lives in `self`
        // and the entry code is never overwritten (`first_free`).
        let enter =
            unsafe { std::mem::transmute::<usize, extern "sysv64" fn(*mut Frame)>(at as usize) };
        let first_free = code.len().next_multiple_of(16);
        Ok(Self {
            frame: Box::new(Frame {
                gpr: [0; 16],
                rflags: 0,
                mem: 0,
                image: 0,
                rfbm: 0,
                stub: 0,
                exit: at + exit as u64,
                faulted: 0,
                vector: 0,
                error: 0,
                mxcsr: 0x1f80,
                fcw: 0x37f,
                reserved: [0; 1],
                bounce: Bounce([0; BOUNCE_SIZE + 64]),
            }),
            arena,
            host,
            enter,
            first_free,
            next_free: first_free,
            stubs: HashMap::new(),
            info: InstructionInfoFactory::new(),
            _faults: faults,
        })
    }

    /// Executes `insn` with the registers in `cpu`. If it has a memory operand,
    /// `mem` stands for it: it holds what the caller read and afterwards what
    /// the caller is to write back if the instruction writes. Its alignment
    /// within 64 bytes is that of the guest's effective linear address.
    ///
    /// RIP is left alone. The x87 instruction and data pointers become the
    /// guest's. The caller has checked that the guest may execute the
    /// instruction (CPUID, CR0, CR4, XCR0, LOCK).
    ///
    /// # Errors
    /// The exception the instruction raised, with `cpu` as that exception
    /// leaves it (MXCSR and x87 status record the cause); `#UD` also for
    /// instructions this executor does not take (see [`Self::accepts`]).
    pub fn run(
        &mut self,
        cpu: &mut CpuState,
        insn: &Instruction,
        mem: &mut [u8],
    ) -> Result<(), Exception> {
        let stub = self.stub(insn).ok_or(Exception::UD)?;
        if mem.len() > BOUNCE_SIZE {
            return Err(Exception::UD);
        }
        let offset = linear_address(cpu, insn) as usize & 63;
        let frame = &mut *self.frame;
        for m in &stub.gprs {
            frame.gpr[m.host as usize & 15] = cpu.gpr[m.guest as usize & 15];
        }
        let bounce = &mut frame.bounce.0[offset..offset + mem.len()];
        bounce.copy_from_slice(mem);
        frame.mem = bounce.as_ptr() as u64;
        if let Some(reg) = stub.mem {
            frame.gpr[reg as usize & 15] = frame.mem;
        }
        frame.rflags = (cpu.rflags & flags::ARITH) | flags::FIXED1;
        frame.rfbm = if stub.fpu {
            self.host.mask(cpu.xcr0)
        } else {
            0
        };
        x87::sanitise(&mut cpu.xsave, self.host.mask(u64::MAX));
        let high = x87::high_registers(cpu, insn);
        frame.image = cpu.xsave.0.as_mut_ptr() as u64;
        frame.stub = stub.at;
        frame.faulted = 0;
        // SAFETY: `enter` is our entry code. It reads and writes the frame,
        // which is exclusively ours, the image, which `cpu` lends us
        // exclusively and which is 64-byte aligned and as long as the
        // components in `rfbm` need, and whatever the instruction's one memory
        // operand covers from `mem` on: `rewrite` admits only instructions
        // without implicit memory, and the buffer is longer than any operand.
        (self.enter)(frame);

        cpu.rflags = (cpu.rflags & !flags::ARITH) | (frame.rflags & flags::ARITH);
        if stub.fpu {
            let at = frame.bounce.0.as_ptr() as usize;
            let data = at..at + frame.bounce.0.len();
            if let Some(saved) = high {
                saved.restore(cpu);
            }
            x87::hide_host(cpu, insn, self.host, &self.arena.rx_range(), &data);
        }
        if frame.faulted != 0 {
            return Err(exception(frame.vector as u8));
        }
        for m in &stub.gprs {
            if Some(m.host) != stub.mem {
                cpu.gpr[m.guest as usize & 15] = frame.gpr[m.host as usize & 15];
            }
        }
        mem.copy_from_slice(&frame.bounce.0[offset..offset + mem.len()]);
        Ok(())
    }

    /// True if [`Self::run`] executes this instruction rather than refusing it.
    pub fn accepts(&mut self, insn: &Instruction) -> bool {
        self.stub(insn).is_some()
    }

    fn stub(&mut self, insn: &Instruction) -> Option<Stub> {
        let key = rewrite::normalise(insn);
        if let Some(found) = self.stubs.get(&key) {
            return found.clone();
        }
        let rewritten = rewrite::rewrite(insn, &mut self.info);
        let stub = rewritten.and_then(|r| self.compile(&r));
        if self.stubs.len() >= MAX_STUBS {
            self.stubs.clear();
        }
        self.stubs.insert(key, stub.clone());
        stub
    }

    /// Places the instruction and a jump to the exit.
    fn compile(&mut self, r: &Rewritten) -> Option<Stub> {
        let len = r.code.len() + 5;
        if self.next_free + len > self.arena.len() {
            self.stubs.clear();
            self.next_free = self.first_free;
        }
        let end = self.arena.rx() as u64 + (self.next_free + len) as u64;
        let mut code = r.code.clone();
        code.push(0xe9); // jmp rel32
        code.extend_from_slice(&(self.frame.exit.wrapping_sub(end) as i32).to_le_bytes());
        let at = self.arena.write(self.next_free, &code)?;
        self.next_free = (self.next_free + len).next_multiple_of(16);
        Some(Stub {
            at,
            gprs: r.gprs.clone().into_boxed_slice(),
            mem: r.mem,
            fpu: r.fpu,
        })
    }
}

/// Resumes a faulted stub at its exit with the cause noted in the frame.
fn on_fault(fault: &mut Fault<'_>) -> bool {
    let frame = fault.reg(libc::REG_R15) as *mut Frame;
    // SAFETY: this handler is registered for a `NativeExec`'s arena only; all
    // code in it that can fault runs with R15 holding its frame (the entry sets
    // it before its first memory access through a guest value).
    let exit = unsafe {
        (*frame).faulted = 1;
        (*frame).vector = u32::from(fault.vector());
        (*frame).error = fault.error_code();
        (*frame).exit
    };
    fault.set_reg(libc::REG_RIP, exit);
    true
}

fn exception(v: u8) -> Exception {
    match v {
        vector::DE => Exception::DE,
        vector::BR => Exception::BR,
        vector::MF => Exception::MF,
        vector::XM => Exception::XM,
        vector::AC => Exception::AC,
        // The bounce buffer is mapped and canonical: #GP can only come from
        // alignment or reserved bits, #PF not at all.
        vector::GP | vector::PF => Exception::GP0,
        vector::SS => Exception::SS0,
        _ => Exception::UD,
    }
}

/// Linear address of the memory operand, 0 without one.
fn linear_address(cpu: &CpuState, insn: &Instruction) -> u64 {
    address(cpu, insn, true).unwrap_or(0)
}

/// Address of the first memory operand: linear, or the offset in its segment.
fn address(cpu: &CpuState, insn: &Instruction, linear: bool) -> Option<u64> {
    let operand = (0..insn.op_count()).find(|&i| {
        use iced_x86::OpKind as K;
        matches!(
            insn.op_kind(i),
            K::Memory | K::MemorySegDI | K::MemorySegEDI | K::MemorySegRDI
        )
    })?;
    insn.virtual_address(operand, 0, |reg, _, _| Some(register(cpu, reg, linear)))
}

fn register(cpu: &CpuState, reg: Register, linear: bool) -> u64 {
    if let Some(seg) = segment(reg) {
        let flat = cpu.code64() && !matches!(seg, Seg::Fs | Seg::Gs);
        return if linear && !flat {
            cpu.seg(seg).base
        } else {
            0
        };
    }
    if !reg.is_gpr() {
        return 0;
    }
    let value = cpu.gpr[reg.full_register().number() & 15];
    match reg.size() {
        8 => value,
        4 => value & 0xffff_ffff,
        _ => value & 0xffff,
    }
}

fn segment(reg: Register) -> Option<Seg> {
    Some(match reg {
        Register::ES => Seg::Es,
        Register::CS => Seg::Cs,
        Register::SS => Seg::Ss,
        Register::DS => Seg::Ds,
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        _ => return None,
    })
}
