//! Guest code and vCPU state on the engine, one instruction after another.
#![allow(unsafe_code, reason = "lends guest memory to the engine")]

use crate::input::Input;
use engine::Soft;
use hv::abi::*;
use hv::{Hypervisor, Kicker, MemFlags, MemSlot, Vcpu, VcpuExit, Vm};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use x86::{cr0, cr4, efer, flags, msr};

/// Guest RAM: 32 pages from address 0.
const RAM: usize = 32 * 4096;
/// Page tables of the sane modes: identity for the first 2 MiB.
const TABLES: u64 = 0x1_0000;
/// The same where the guest cannot reach them: in lockstep a block that changes
/// the entry that maps it would see bits of it that its rehearsal does not.
const FAR_TABLES: u64 = 0x4000_0000;
/// Bytes of page tables.
const TABLES_SIZE: usize = 3 * 4096;
/// Descriptors of the sane modes.
const GDT: u64 = 0x1_4000;
/// Where code begins.
const CODE: u64 = 0x8000;
/// Instructions (or `rep` iterations) after which an input has had its say.
const STEPS: usize = 16;

struct World {
    vcpu: Box<dyn Vcpu>,
    vm: Arc<dyn Vm>,
    /// Guest RAM: leaked, so that it outlives the VM.
    ram: *mut u8,
    /// Address of the page tables, and where they lie.
    tables: (u64, *mut u8),
    fresh: Fresh,
}

// SAFETY: the pointer is to leaked memory that only the holder of the lock
// around `World` and the vCPU it runs touch.
unsafe impl Send for World {}

/// State of a new vCPU, set before every input.
struct Fresh {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    msrs: Vec<(u32, u64)>,
}

/// One instruction after another through the interpreter.
static STEPPED: LazyLock<Mutex<World>> = LazyLock::new(|| {
    let mut world = World::new(engine::Options {
        translate: false,
        ..engine::Options::default()
    });
    let debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
        ..Default::default()
    };
    world.vcpu.set_guest_debug(&debug).expect("single-stepping");
    Mutex::new(world)
});

/// Translated and compared with the interpreter.
static LOCKSTEP: LazyLock<Mutex<World>> = LazyLock::new(|| {
    Mutex::new(World::new(engine::Options {
        lockstep: true,
        ..engine::Options::default()
    }))
});

impl World {
    fn new(options: engine::Options) -> Self {
        let soft = Soft::with_options(options);
        let vm = soft.create_vm().expect("a VM");
        let ram = lend(&*vm, 0, 0, RAM);
        let tables = match options.lockstep {
            true => (FAR_TABLES, lend(&*vm, 1, FAR_TABLES, TABLES_SIZE)),
            false => (TABLES, ram.wrapping_add(TABLES as usize)),
        };
        let mut vcpu = vm.create_vcpu(0).expect("a vCPU");
        let cpuid = soft.supported_cpuid().expect("CPUID");
        vcpu.set_cpuid(&cpuid).expect("CPUID");
        let list = soft.msr_index_list().expect("MSRs");
        let msrs = list.into_iter().filter(|&i| i != msr::TSC);
        let msrs = msrs.filter_map(|i| Some((i, vcpu.msr(i).ok()?))).collect();
        let fresh = Fresh {
            regs: vcpu.regs().expect("registers"),
            sregs: vcpu.sregs().expect("registers"),
            xsave: vcpu.xsave().expect("registers"),
            debug: vcpu.debug_regs().expect("registers"),
            events: vcpu.events().expect("events"),
            msrs,
        };
        kick_when_stuck(&vcpu.kicker());
        Self {
            vcpu,
            vm,
            ram,
            tables,
            fresh,
        }
    }

    /// Everything as after power-on, RAM zero.
    fn reset(&mut self) {
        BEGUN.fetch_add(1, Ordering::Relaxed);
        let (vcpu, fresh) = (&mut self.vcpu, &self.fresh);
        for &(index, value) in &fresh.msrs {
            assert!(vcpu.set_msr(index, value).is_ok(), "MSR {index:#x}");
        }
        let done = [
            vcpu.set_sregs(&fresh.sregs),
            vcpu.set_xcr0(1),
            vcpu.set_xsave(&fresh.xsave),
            vcpu.set_debug_regs(&fresh.debug),
            vcpu.set_regs(&fresh.regs),
            vcpu.set_events(&kvm_vcpu_events {
                flags: KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING,
                ..fresh.events
            }),
            vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE),
        ];
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        // SAFETY: `RAM` bytes of leaked memory; the vCPU does not run.
        unsafe { self.ram.write_bytes(0, RAM) };
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        let at = gpa as usize % RAM;
        let n = bytes.len().min(RAM - at);
        // SAFETY: inside the leaked memory, whose owner we are; `bytes` is not
        // in it.
        unsafe { self.ram.add(at).copy_from_nonoverlapping(bytes.as_ptr(), n) };
    }

    /// Sets an entry of the page tables.
    fn set_entry(&self, offset: u64, value: u64) {
        let at = offset as usize % TABLES_SIZE;
        let bytes = value.to_le_bytes();
        // SAFETY: `TABLES_SIZE` bytes of leaked memory; entries do not cross
        // its end.
        unsafe { self.tables.1.add(at).copy_from(bytes.as_ptr(), bytes.len()) };
    }

    /// Runs some instructions; devices answer from the input.
    fn run(&mut self, mut input: Input<'_>) {
        self.vm.memory_written(0, RAM as u64);
        self.vm.memory_written(self.tables.0, TABLES_SIZE as u64);
        for _ in 0..STEPS {
            let exit = match self.vcpu.run() {
                Ok(exit) => exit,
                // Not judged: the interpreter's undefined flags are Intel's.
                Err(hv::Error::SelfCheck(_)) if jit::native::host_is_amd() => break,
                Err(why) => panic!("{why}"),
            };
            match exit {
                VcpuExit::IoIn { .. } | VcpuExit::MmioRead { .. } => {
                    self.vcpu.complete_read(input.u64());
                }
                VcpuExit::Debug(_) | VcpuExit::IoOut { .. } | VcpuExit::MmioWrite { .. } => {}
                VcpuExit::Hlt | VcpuExit::Shutdown | VcpuExit::Interrupted => break,
                VcpuExit::InternalError { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        let state = (self.vcpu.regs(), self.vcpu.sregs());
        assert!(state.0.is_ok() && state.1.is_ok());
        // An instruction may be in flight: finish it before the next input.
        self.vcpu.kicker().set_immediate_exit(true);
        for _ in 0..64 {
            match self.vcpu.run() {
                Ok(VcpuExit::Interrupted) | Err(_) => break,
                _ => self.vcpu.complete_read(0),
            }
        }
        self.vcpu.kicker().set_immediate_exit(false);
    }
}

/// Gives the VM leaked memory.
pub(super) fn lend(vm: &dyn Vm, slot: u32, gpa: u64, size: usize) -> *mut u8 {
    let backing: &'static mut [u64] = Box::leak(vec![0u64; size / 8 + 512].into_boxed_slice());
    let hva = (backing.as_mut_ptr() as u64).next_multiple_of(4096);
    let slot = MemSlot {
        slot,
        gpa,
        size: size as u64,
        hva,
        flags: MemFlags::NONE,
    };
    // SAFETY: leaked memory with a page to spare for the alignment.
    unsafe { vm.set_memory(slot) }.expect("a slot");
    hva as *mut u8
}

/// Inputs begun so far.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// A handler that cannot be fetched faults without end and completes no
/// instruction, as on a processor: only a kick ends that. The first inputs of
/// a process take longer, and must not end early when one is tried again.
fn kick_when_stuck(kicker: &Arc<dyn Kicker>) {
    let kicker = kicker.clone();
    std::thread::spawn(move || {
        let mut seen = 0;
        loop {
            let first = seen < 16;
            std::thread::sleep(Duration::from_millis(if first { 500 } else { 10 }));
            let now = BEGUN.load(Ordering::Relaxed);
            if now == seen {
                kicker.kick();
            }
            seen = now;
        }
    });
}

fn segment(selector: u16, type_: u8, l: u8, db: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: (selector & 3) as u8,
        db,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    }
}

/// Flat segments and, in paging modes, an identity mapping that user code may
/// use as well.
fn sane(world: &mut World, mode: usize, user: bool) {
    let fresh = world.fresh.sregs;
    let mut s = fresh;
    let rpl = if user { 3 } else { 0 };
    let (l, db) = match mode {
        3 => (1, 0),
        4 => (0, 0),
        _ => (0, 1),
    };
    if mode == 0 {
        s.cs.base = 0;
        s.cs.selector = 0;
    } else {
        s.cr0 = cr0::PE | cr0::NE | cr0::ET | cr0::MP;
        s.cs = segment(8 | rpl, 11, l, db);
        let data = segment(16 | rpl, 3, 0, 1);
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
        s.gdt.base = GDT;
        s.gdt.limit = 0x7f;
        s.idt.base = GDT + 0x800;
        s.idt.limit = 0x7ff;
    }
    s.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    if mode >= 2 {
        s.cr0 |= cr0::PG | cr0::WP;
        s.cr3 = world.tables.0;
        s.cr4 |= cr4::PAE | cr4::PGE;
    }
    if mode >= 3 {
        s.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
    }
    write_tables(world, mode);
    assert!(world.vcpu.set_sregs(&s).is_ok(), "mode {mode}");
}

fn write_tables(world: &World, mode: usize) {
    let present = 7u64;
    let at = world.tables.0;
    match mode {
        // The four entries of PAE have no rights.
        2 => world.set_entry(0, (at + 0x2000) | 1),
        _ => {
            world.set_entry(0, (at + 0x1000) | present);
            world.set_entry(0x1000, (at + 0x2000) | present);
        }
    }
    world.set_entry(0x2000, present | 0x80);
    let entry = |at: u64, value: u64| world.write(at, &value.to_le_bytes());
    for (selector, low) in [
        (8u64, 0x00cf_9b00_0000_ffff_u64),
        (16, 0x00cf_9300_0000_ffff),
        (24, 0x00af_9b00_0000_ffff),
        (32, 0x00cf_fb00_0000_ffff),
        (40, 0x00cf_f300_0000_ffff),
    ] {
        entry(GDT + selector, low);
    }
}

fn registers(input: &mut Input<'_>, wild: bool) -> kvm_regs {
    let mut value = || match wild {
        true => input.u64(),
        // Addresses near RAM, mostly.
        false => u64::from(input.u32()) & 0x8003_ffff,
    };
    kvm_regs {
        rax: value(),
        rbx: value(),
        rcx: value(),
        rdx: value(),
        rsi: value(),
        rdi: value(),
        rsp: value(),
        rbp: value(),
        r8: value(),
        r9: value(),
        r15: value(),
        ..Default::default()
    }
}

/// Code in a sane state of each mode.
pub(super) fn insn(data: &[u8]) {
    let world = &mut *STEPPED.lock();
    let mut input = Input::new(data);
    world.reset();
    let mode = usize::from(input.u8() & 7) % 5;
    let code = sane_code(world, mode, &mut input);
    world.run(Input::new(code));
}

/// Code in the modes that are translated, both ways.
pub(super) fn lockstep(data: &[u8]) {
    let world = &mut *LOCKSTEP.lock();
    let mut input = Input::new(data);
    world.reset();
    // Flat 32-bit code without and with paging, 64-bit code.
    let mode = [1, 2, 3, 3][usize::from(input.u8() & 3)];
    let code = sane_code(world, mode, &mut input);
    // Code that runs off its end stops.
    world.write(CODE + code.len() as u64, &[0xf4; 16]);
    world.run(Input::new(code));
}

/// Sets up a mode, registers and memory from the input; the rest of it is the
/// code.
fn sane_code<'a>(world: &mut World, mode: usize, input: &mut Input<'a>) -> &'a [u8] {
    let how = input.u8();
    let user = how & 8 != 0 && mode != 0;
    sane(world, mode, user);
    let mut regs = registers(input, how & 16 != 0);
    regs.rip = CODE;
    regs.rflags = u64::from(input.u16()) & !flags::TF | flags::FIXED1;
    assert!(world.vcpu.set_regs(&regs).is_ok());
    if how & 32 != 0 {
        let _ = world.vcpu.set_xcr0(7);
    }
    let data_bytes = usize::from(input.u8());
    world.write(regs.rsi, input.bytes(data_bytes));
    let code = input.rest();
    world.write(CODE, code);
    code
}

/// State of the fuzzer's making, as far as the engine takes it.
pub(super) fn vcpu(data: &[u8]) {
    let world = &mut *STEPPED.lock();
    let mut input = Input::new(data);
    world.reset();
    let how = input.u8();
    sane(world, usize::from(how & 7) % 5, how & 8 != 0);
    let mut sregs = world.vcpu.sregs().expect("registers");
    for _ in 0..input.u8() & 15 {
        wild_register(&mut sregs, &mut input);
    }
    let _ = world.vcpu.set_sregs(&sregs);
    let _ = world.vcpu.set_xcr0(input.u8().into());
    let mut regs = registers(&mut input, how & 16 != 0);
    regs.rip = if how & 32 != 0 { input.u64() } else { CODE };
    regs.rflags = input.u32().into();
    assert!(world.vcpu.set_regs(&regs).is_ok());
    if how & 64 != 0 {
        wild_state(world, &mut input);
    }
    for _ in 0..input.u8() & 7 {
        let list = &world.fresh.msrs;
        let (index, _) = list[input.below(list.len())];
        let _ = world.vcpu.set_msr(index, input.u64());
    }
    while input.flag() {
        let at = u64::from(input.u16()) * 8;
        let n = usize::from(input.u8() & 63);
        world.write(at, input.bytes(n));
    }
    let code = input.rest();
    world.write(CODE, code);
    world.run(Input::new(code));
}

/// Changes one field.
fn wild_register(s: &mut kvm_sregs, input: &mut Input<'_>) {
    let which = input.u8();
    let table = match which & 1 {
        0 => &mut s.gdt,
        _ => &mut s.idt,
    };
    match which >> 4 {
        0 => s.cr0 = input.u32().into(),
        1 => s.cr2 = input.u64(),
        2 => s.cr3 = input.u64(),
        3 => s.cr4 = input.u32().into(),
        4 => s.efer = input.u16().into(),
        5 => (table.base, table.limit) = (input.u64(), input.u16()),
        6 => s.cr8 = input.u64(),
        7 => s.interrupt_bitmap[usize::from(which & 3)] = 1 << (input.u8() & 63),
        _ => {
            let segment = match which & 7 {
                0 => &mut s.cs,
                1 => &mut s.ds,
                2 => &mut s.es,
                3 => &mut s.fs,
                4 => &mut s.gs,
                5 => &mut s.ss,
                6 => &mut s.tr,
                _ => &mut s.ldt,
            };
            let bits = input.u16();
            let bit = |n: u16| (bits >> n & 1) as u8;
            *segment = kvm_segment {
                base: input.u64(),
                limit: input.u32(),
                selector: input.u16(),
                type_: (bits & 15) as u8,
                present: bit(4),
                dpl: (bits >> 5 & 3) as u8,
                db: bit(7),
                s: bit(8),
                l: bit(9),
                g: bit(10),
                avl: bit(11),
                unusable: bit(12),
                padding: 0,
            };
        }
    }
}

/// x87 and vector state, debug registers, events.
fn wild_state(world: &mut World, input: &mut Input<'_>) {
    let mut xsave = world.vcpu.xsave().expect("registers");
    for _ in 0..input.u8() & 31 {
        let at = usize::from(input.u16()) % 144;
        xsave.region[at] = input.u32();
    }
    let _ = world.vcpu.set_xsave(&xsave);
    let debug = kvm_debugregs {
        db: [input.u64(), input.u64(), input.u64() & 0x1_ffff, CODE],
        dr6: input.u32().into(),
        dr7: input.u32().into(),
        ..Default::default()
    };
    let _ = world.vcpu.set_debug_regs(&debug);
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING,
        ..Default::default()
    };
    events.exception.injected = input.u8() & 1;
    events.exception.nr = input.u8();
    events.exception.has_error_code = input.u8() & 1;
    events.exception.error_code = input.u32();
    events.interrupt.injected = input.u8() & 1;
    events.interrupt.nr = input.u8();
    events.interrupt.shadow = input.u8() & 3;
    events.nmi.injected = input.u8() & 1;
    events.nmi.pending = input.u8() & 3;
    events.nmi.masked = input.u8() & 1;
    let _ = world.vcpu.set_events(&events);
}
