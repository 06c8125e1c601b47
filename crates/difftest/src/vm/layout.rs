//! Where things are in guest-physical memory, and the tables the guest needs.

use crate::case::{GS_BASE, GS_SELECTOR};
use crate::layout::{CODE, CODE_LEN, DATA, DATA_LEN, DATA_PAGES, PAGE, Perm};
use hv::abi::{kvm_dtable, kvm_segment, kvm_sregs};
use x86::{cr0, cr4, efer};

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT_DATA: u64 = 0x4000;
const PT_CODE: u64 = 0x5000;
const PT_SYSTEM: u64 = 0x6000;
const IDT: u64 = 0x7000;
const GDT: u64 = 0x8000;
const TSS: u64 = 0x9000;
/// Exception handlers: a HLT every [`HANDLER`] bytes, then an IRETQ.
const STUBS: u64 = 0xa000;
const STACK: u64 = 0xb000;
/// Guest-physical address of the data window.
pub const DATA_GPA: u64 = 0x1_0000;
/// Guest-physical address of the code window.
pub const CODE_GPA: u64 = 0x2_0000;
/// Bytes of guest memory.
pub const RAM: usize = 0x3_0000;

/// Linear address of guest-physical 0: between the windows, for the kernel
/// only.
const SYSTEM: u64 = 0x2050_0000;
const HANDLER: u64 = 16;
const VECTORS: u64 = 32;

/// Linear address of an IRETQ.
pub const IRETQ: u64 = SYSTEM + STUBS + VECTORS * HANDLER;
/// Guest-physical address of the frame that enters a case.
pub const ENTRY_FRAME_GPA: u64 = STACK + 0x400;
/// Its linear address.
pub const ENTRY_FRAME: u64 = SYSTEM + ENTRY_FRAME_GPA;

/// Selectors as Linux has them.
pub const KERNEL_CS: u16 = 0x08;
const KERNEL_SS: u16 = 0x10;
/// (code, stack) selectors of user mode.
pub const USER: (u16, u16) = (0x33, 0x2b);
/// (code, stack) selectors of 32-bit user mode.
pub const USER32: (u16, u16) = (0x23, 0x2b);
/// (code, stack) selectors of kernel mode.
pub const KERNEL: (u16, u16) = (KERNEL_CS, KERNEL_SS);
const TSS_SELECTOR: u16 = 0x38;

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const NX: u64 = 1 << 63;

/// The vector whose handler ends before linear address `rip`.
pub fn vector_of(rip: u64) -> Option<u8> {
    let n = rip.checked_sub(SYSTEM + STUBS + 1)? / HANDLER;
    u8::try_from(n).ok().filter(|n| u64::from(*n) < VECTORS)
}

/// Guest-physical address of `la`, if it is on the exception stack.
pub fn stack_gpa(la: u64) -> Option<u64> {
    let gpa = la.checked_sub(SYSTEM)?;
    (STACK..=STACK + PAGE - 40).contains(&gpa).then_some(gpa)
}

/// Fills guest memory with page tables, descriptors and stubs.
pub fn write_tables(ram: &mut [u8]) {
    let mut put = |gpa: u64, v: u64| {
        ram[gpa as usize..gpa as usize + 8].copy_from_slice(&v.to_le_bytes());
    };
    let index = |la: u64, level: u32| (la >> (12 + 9 * level) & 511) * 8;
    let all = P | RW | US;
    put(PML4 + index(DATA, 3), PDPT | all);
    put(PDPT + index(DATA, 2), PD | all);
    for (la, table) in [(DATA, PT_DATA), (CODE, PT_CODE), (SYSTEM, PT_SYSTEM)] {
        put(PD + index(la, 1), table | all);
    }
    for (i, perm) in DATA_PAGES.iter().enumerate() {
        let i = i as u64;
        let bits = match perm {
            Perm::None => 0,
            Perm::Read => P | US | NX,
            Perm::ReadWrite => all | NX,
        };
        put(
            PT_DATA + index(DATA + i * PAGE, 0),
            (DATA_GPA + i * PAGE) | bits,
        );
    }
    for i in 0..CODE_LEN as u64 / PAGE {
        put(
            PT_CODE + index(CODE + i * PAGE, 0),
            (CODE_GPA + i * PAGE) | P | US,
        );
    }
    for gpa in (0..DATA_GPA).step_by(PAGE as usize) {
        put(PT_SYSTEM + index(SYSTEM + gpa, 0), gpa | P | RW);
    }
    for v in 0..VECTORS {
        let to = SYSTEM + STUBS + v * HANDLER;
        let user = if v == 3 { 0x6000 } else { 0 };
        // Interrupt gate, IST 1 (SDM vol 3, 6.14.1).
        let low = to & 0xffff | u64::from(KERNEL_CS) << 16 | 1 << 32 | (0x8e00 | user) << 32;
        put(IDT + 16 * v, low | (to >> 16 & 0xffff) << 48);
        put(IDT + 16 * v + 8, to >> 32);
        put(STUBS + v * HANDLER, 0xf4); // hlt
    }
    put(STUBS + VECTORS * HANDLER, 0xcf48); // iretq
    put(TSS + 0x24, SYSTEM + STACK + PAGE); // IST 1
    put(TSS + 0x60, 0x68 << 48); // no I/O bitmap
    put(GDT + u64::from(KERNEL_CS), 0x00af_9b00_0000_ffff);
    put(GDT + u64::from(KERNEL_SS), 0x00cf_9300_0000_ffff);
    put(GDT + 0x20, 0x00cf_fb00_0000_ffff);
    put(GDT + 0x28, 0x00cf_f300_0000_ffff);
    put(GDT + 0x30, 0x00af_fb00_0000_ffff);
}

/// Bytes of the windows that the host process sees, for the sizes above.
const _: () = assert!(
    DATA_GPA as usize + DATA_LEN <= CODE_GPA as usize && CODE_GPA as usize + CODE_LEN <= RAM
);

/// Kernel mode on these tables.
pub fn sregs(old: &kvm_sregs) -> kvm_sregs {
    let table = |gpa, limit| kvm_dtable {
        base: SYSTEM + gpa,
        limit,
        padding: [0; 3],
    };
    let seg = |selector, type_, dpl, long: bool| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    };
    let mut s = *old;
    s.cs = seg(KERNEL_CS, 0xb, 0, true);
    s.ss = seg(KERNEL_SS, 3, 0, false);
    let user = seg(USER.1, 3, 3, false);
    (s.ds, s.es) = (user, user);
    s.fs = kvm_segment {
        selector: 0,
        ..user
    };
    s.gs = kvm_segment {
        base: GS_BASE,
        selector: GS_SELECTOR,
        ..user
    };
    s.tr = kvm_segment {
        base: SYSTEM + TSS,
        limit: 0x67,
        selector: TSS_SELECTOR,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    s.gdt = table(GDT, 0x3f);
    s.idt = table(IDT, 16 * VECTORS as u16 - 1);
    s.cr0 = cr0::PE | cr0::PG | cr0::AM | cr0::WP | cr0::NE | cr0::MP | cr0::ET;
    s.cr3 = PML4;
    s.cr4 = cr4::PAE
        | cr4::PGE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT
        | cr4::OSXSAVE
        | cr4::FSGSBASE
        | cr4::UMIP;
    s.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    s
}
