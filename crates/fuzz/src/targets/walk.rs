//! Page tables.

use crate::input::Input;
use parking_lot::Mutex;
use softmmu::tlb::Tlb;
use softmmu::walk::{Need, Roots, peek, read_pdptes, translate};
use softmmu::{GuestMemory, NewSlot, SlotMap};
use std::sync::LazyLock;
use x86::{CpuState, Seg, cr0, cr4, efer, flags};

/// Guest RAM: 16 pages from address 0.
const RAM: usize = 16 * 4096;
/// Guest-physical address bits.
const PHYS_BITS: u32 = 40;

/// Memory and a TLB that live as long as the process.
struct World {
    memory: GuestMemory,
    tlb: Box<Tlb>,
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| {
    let memory = GuestMemory::new();
    let backing: &'static mut [u64] = Box::leak(vec![0u64; RAM / 8 + 512].into_boxed_slice());
    let hva = (backing.as_mut_ptr() as u64).next_multiple_of(4096);
    map(&memory, hva);
    let tlb = Box::new(Tlb::new(PHYS_BITS));
    Mutex::new(World { memory, tlb })
});

#[allow(unsafe_code, reason = "the call that lends memory is unsafe")]
fn map(memory: &GuestMemory, hva: u64) {
    // SAFETY: the caller leaked a page more than `RAM` bytes from before
    // `hva` on; nobody else uses them.
    let mapped = unsafe {
        memory.set_slot(NewSlot {
            size: RAM as u64,
            hva,
            ..NewSlot::default()
        })
    };
    assert!(mapped.is_ok());
}

/// Paging mode and access rights from two bytes.
fn registers(input: &mut Input<'_>) -> CpuState {
    let mut cpu = CpuState::reset(0);
    cpu.cr0 |= cr0::PE | cr0::PG;
    match input.below(4) {
        0 => cpu.cr4 |= cr4::PSE,
        1 => {}
        2 => cpu.cr4 |= cr4::PAE,
        _ => {
            cpu.cr4 |= cr4::PAE;
            cpu.efer |= efer::LME | efer::LMA;
        }
    }
    let bits = input.u8();
    let choose = |bit: u8, register: &mut u64, value: u64| {
        if bits & 1 << bit != 0 {
            *register |= value;
        }
    };
    choose(0, &mut cpu.cr0, cr0::WP);
    choose(1, &mut cpu.cr4, cr4::SMEP);
    choose(2, &mut cpu.cr4, cr4::SMAP);
    choose(3, &mut cpu.cr4, cr4::PGE);
    choose(4, &mut cpu.efer, efer::NXE);
    choose(5, &mut cpu.rflags, flags::AC);
    cpu.cr3 = input.u64();
    if !cpu.long_mode() {
        cpu.cr3 &= 0xffff_ffff;
    }
    cpu
}

fn linear(input: &mut Input<'_>, cpu: &CpuState) -> u64 {
    let la = input.u64();
    if cpu.long_mode() {
        ((la << 16).cast_signed() >> 16).cast_unsigned()
    } else {
        la & 0xffff_ffff
    }
}

/// Page tables, then addresses: the walker, a debugger's look and the TLB must
/// agree, and a second walk must find what the first one found.
pub(super) fn run(data: &[u8]) {
    let mut world = WORLD.lock();
    let World { memory, tlb } = &mut *world;
    let slots = memory.map();
    let map = &*slots;
    let mut input = Input::new(data);
    let mut cpu = registers(&mut input);
    let accesses: Vec<(u64, u8)> = (0..4)
        .map(|_| (linear(&mut input, &cpu), input.u8()))
        .collect();
    fill(map, &mut input);
    let pdptes = read_pdptes(cpu.cr3, map);
    tlb.load_pdptes(cpu.cr3, map);
    for (la, how) in accesses {
        let need = Need {
            write: how & 1 != 0,
            exec: how & 3 == 2,
            user: how & 4 != 0,
            implicit: how & 12 == 8,
        };
        let dpl = if need.user { 3 } else { 0 };
        cpu.seg_mut(Seg::Ss).attr = x86::segment::attr::P | dpl << x86::segment::attr::DPL_SHIFT;
        let roots = Roots {
            phys_bits: PHYS_BITS,
            pdptes: &pdptes,
        };
        tlb.flush_all();
        let first = translate(&cpu, map, la, need, roots);
        let again = translate(&cpu, map, la, need, roots);
        assert_eq!(first.map(|m| m.gpa), again.map(|m| m.gpa), "{la:#x}");
        let cached = tlb.resolve(&cpu, map, la, need).map(|r| r.gpa);
        assert_eq!(again.map(|m| m.gpa), cached, "{la:#x}");
        if let Ok(mapping) = again {
            let seen = peek(&cpu, map, la, roots);
            assert_eq!(seen, Some(mapping.gpa | la & 0xfff), "{la:#x}");
            assert!(mapping.dirty || !need.write);
        }
    }
}

/// Entries of eight bytes at places of the fuzzer's choice, the rest zero.
fn fill(map: &SlotMap, input: &mut Input<'_>) {
    map.write(0, &[0; RAM]);
    while !input.is_empty() {
        let at = u64::from(input.u16()) & (RAM as u64 - 8);
        map.write(at, &input.u64().to_le_bytes());
    }
}
