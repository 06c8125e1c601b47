//! Conversions between the vCPU's state and KVM's register structures.

use hv::abi::*;
use hv::{Error, Result};
use irqchip::{Chipset, IoApicState, PicState, PitChannelState, PitState, Route};
use x86::segment::attr;
use x86::{
    CpuState, DescTable, Exception, Pending, Seg, Segment, Shadow, cr0, cr4, efer, flags, gpr,
};

/// An external interrupt could be delivered now.
pub fn ready_for_irq(cpu: &CpuState) -> bool {
    cpu.rflags & flags::IF != 0 && cpu.events.shadow == Shadow::None && cpu.events.pending.is_none()
}

/// General registers.
pub fn regs(cpu: &CpuState) -> kvm_regs {
    let g = &cpu.gpr;
    kvm_regs {
        rax: g[gpr::RAX],
        rbx: g[gpr::RBX],
        rcx: g[gpr::RCX],
        rdx: g[gpr::RDX],
        rsi: g[gpr::RSI],
        rdi: g[gpr::RDI],
        rsp: g[gpr::RSP],
        rbp: g[gpr::RBP],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: cpu.rip,
        rflags: cpu.rflags,
    }
}

/// Sets general registers; bits of RFLAGS that do not exist are ignored. As
/// with KVM a pending exception is dropped.
pub fn set_regs(cpu: &mut CpuState, r: &kvm_regs) {
    cpu.gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ];
    cpu.rip = r.rip;
    cpu.rflags = r.rflags & flags::DEFINED | flags::FIXED1;
    if matches!(cpu.events.pending, Some(Pending::Exception(_))) {
        cpu.events.pending = None;
    }
}

fn segment(s: &Segment) -> kvm_segment {
    let bit = |m: u16| u8::from(s.attr & m != 0);
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: (s.attr & attr::TYPE) as u8,
        present: bit(attr::P),
        dpl: s.dpl(),
        db: bit(attr::DB),
        s: bit(attr::S),
        l: bit(attr::L),
        g: bit(attr::G),
        avl: bit(attr::AVL),
        unusable: u8::from(!s.present()),
        padding: 0,
    }
}

fn from_segment(s: &kvm_segment) -> Segment {
    let bit = |v: u8, m: u16| if v != 0 { m } else { 0 };
    let present = s.present != 0 && s.unusable == 0;
    Segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        attr: u16::from(s.type_) & attr::TYPE
            | bit(s.s, attr::S)
            | (u16::from(s.dpl) & 3) << attr::DPL_SHIFT
            | bit(u8::from(present), attr::P)
            | bit(s.avl, attr::AVL)
            | bit(s.l, attr::L)
            | bit(s.db, attr::DB)
            | bit(s.g, attr::G),
    }
}

/// Segment and control registers; CR8 and APIC base as without irqchip.
pub fn sregs(cpu: &CpuState) -> kvm_sregs {
    let table = |t: &DescTable| kvm_dtable {
        base: t.base,
        limit: t.limit,
        padding: [0; 3],
    };
    let seg = |s: Seg| segment(cpu.seg(s));
    let mut interrupt_bitmap = [0u64; 4];
    if let Some(Pending::Interrupt(v)) = cpu.events.pending {
        interrupt_bitmap[usize::from(v) / 64] |= 1 << (v % 64);
    }
    kvm_sregs {
        cs: seg(Seg::Cs),
        ds: seg(Seg::Ds),
        es: seg(Seg::Es),
        fs: seg(Seg::Fs),
        gs: seg(Seg::Gs),
        ss: seg(Seg::Ss),
        tr: seg(Seg::Tr),
        ldt: seg(Seg::Ldtr),
        gdt: table(&cpu.gdtr),
        idt: table(&cpu.idtr),
        cr0: cpu.cr0,
        cr2: cpu.cr2,
        cr3: cpu.cr3,
        cr4: cpu.cr4,
        cr8: cpu.cr8,
        efer: cpu.efer,
        apic_base: cpu.msr.apic_base,
        interrupt_bitmap,
    }
}

/// CR4 bits and the CPUID bit (leaf, register, bit) that makes each exist.
const CR4_BITS: &[(u64, u32, usize, u32)] = &[
    (cr4::UMIP, 7, 2, 2),
    (cr4::FSGSBASE, 7, 1, 0),
    (cr4::PCIDE, 1, 2, 17),
    (cr4::OSXSAVE, 1, 2, 26),
    (cr4::SMEP, 7, 1, 7),
    (cr4::SMAP, 7, 1, 20),
];

/// CR4 bits every guest has.
const CR4_BASE: u64 = cr4::VME
    | cr4::PVI
    | cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT;

/// Refuses combinations no CPU can be in.
pub fn check_sregs(s: &kvm_sregs, cpuid: &[kvm_cpuid_entry2]) -> Result<()> {
    let bad = |why| {
        Err(Error::InvalidState {
            group: "sregs",
            why,
        })
    };
    let mut cr4_allowed = CR4_BASE;
    for &(bit, leaf, register, n) in CR4_BITS {
        if crate::cpuid::lookup(cpuid, leaf, 0)[register] & (1 << n) != 0 {
            cr4_allowed |= bit;
        }
    }
    if s.cr4 & !cr4_allowed != 0 {
        return bad("CR4 has reserved bits");
    }
    if s.cr0 >> 32 != 0 || (s.cr0 & cr0::PG != 0 && s.cr0 & cr0::PE == 0) {
        return bad("CR0 has reserved bits or PG without PE");
    }
    if s.cr0 & cr0::NW != 0 && s.cr0 & cr0::CD == 0 {
        return bad("CR0.NW without CD");
    }
    if s.efer & !(efer::SCE | efer::LME | efer::LMA | efer::NXE) != 0 {
        return bad("EFER has reserved bits");
    }
    let long = s.efer & efer::LME != 0 && s.cr0 & cr0::PG != 0;
    if long && (s.cr4 & cr4::PAE == 0 || s.efer & efer::LMA == 0) {
        return bad("long mode needs CR4.PAE and EFER.LMA");
    }
    if long && s.cr3 >> crate::cpuid::phys_bits() != 0 {
        return bad("CR3 beyond the physical address width");
    }
    if !long && (s.efer & efer::LMA != 0 || s.cs.l != 0) {
        return bad("EFER.LMA or CS.L without long mode");
    }
    if s.cr4 & cr4::PCIDE != 0 && !long {
        return bad("CR4.PCIDE outside long mode");
    }
    Ok(())
}

/// Sets what [`check_sregs`] accepted.
pub fn set_sregs(cpu: &mut CpuState, s: &kvm_sregs) {
    let table = |t: &kvm_dtable| DescTable {
        base: t.base,
        limit: t.limit,
    };
    for (seg, value) in [
        (Seg::Cs, &s.cs),
        (Seg::Ds, &s.ds),
        (Seg::Es, &s.es),
        (Seg::Fs, &s.fs),
        (Seg::Gs, &s.gs),
        (Seg::Ss, &s.ss),
        (Seg::Tr, &s.tr),
        (Seg::Ldtr, &s.ldt),
    ] {
        *cpu.seg_mut(seg) = from_segment(value);
    }
    // A null SS in 64-bit mode is unusable but keeps the privilege level.
    if s.ss.unusable != 0 || s.ss.present == 0 {
        cpu.seg_mut(Seg::Ss).attr |= (u16::from(s.ss.dpl) & 3) << attr::DPL_SHIFT;
    }
    cpu.gdtr = table(&s.gdt);
    cpu.idtr = table(&s.idt);
    cpu.cr0 = s.cr0 | cr0::ET;
    cpu.cr2 = s.cr2;
    cpu.cr3 = s.cr3;
    cpu.cr4 = s.cr4;
    cpu.cr8 = s.cr8;
    cpu.efer = s.efer;
    cpu.msr.apic_base = s.apic_base;
    let vector = (0..256usize).find(|v| s.interrupt_bitmap[v / 64] >> (v % 64) & 1 != 0);
    if let Some(v) = vector {
        cpu.events.pending = Some(Pending::Interrupt(v as u8));
    }
}

/// x87 and SSE state out of the XSAVE image (FXSAVE layout, SDM vol 1, 10.5).
pub fn fpu(cpu: &CpuState) -> kvm_fpu {
    let a = &cpu.xsave.0;
    let u16_at = |o: usize| u16::from_le_bytes([a[o], a[o + 1]]);
    let u64_at = |o: usize| u64::from_le_bytes(a[o..o + 8].try_into().unwrap_or_default());
    let block = |o: usize| <[u8; 16]>::try_from(&a[o..o + 16]).unwrap_or_default();
    let present = a[512];
    let mut f = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    if present & 1 != 0 {
        f.fcw = u16_at(0);
        f.fsw = u16_at(2);
        f.ftwx = a[4];
        f.last_opcode = u16_at(6);
        f.last_ip = u64_at(8);
        f.last_dp = u64_at(16);
        f.fpr = std::array::from_fn(|i| block(32 + 16 * i));
    }
    f.mxcsr = u32::from_le_bytes([a[24], a[25], a[26], a[27]]);
    if present & 2 != 0 {
        f.xmm = std::array::from_fn(|i| block(160 + 16 * i));
    }
    f
}

/// Sets x87 and SSE state; wider registers stay.
pub fn set_fpu(cpu: &mut CpuState, f: &kvm_fpu) {
    let a = &mut cpu.xsave.0;
    a[0..2].copy_from_slice(&f.fcw.to_le_bytes());
    a[2..4].copy_from_slice(&f.fsw.to_le_bytes());
    a[4] = f.ftwx;
    a[6..8].copy_from_slice(&f.last_opcode.to_le_bytes());
    a[8..16].copy_from_slice(&f.last_ip.to_le_bytes());
    a[16..24].copy_from_slice(&f.last_dp.to_le_bytes());
    a[24..28].copy_from_slice(&(f.mxcsr & 0xffff).to_le_bytes());
    for (i, r) in f.fpr.iter().enumerate() {
        a[32 + 16 * i..48 + 16 * i].copy_from_slice(r);
    }
    for (i, r) in f.xmm.iter().enumerate() {
        a[160 + 16 * i..176 + 16 * i].copy_from_slice(r);
    }
    a[512] |= 3;
}

/// The XSAVE image as 32-bit words.
pub fn xsave(cpu: &CpuState) -> kvm_xsave {
    let mut x = kvm_xsave::default();
    for (word, bytes) in x.region.iter_mut().zip(cpu.xsave.0.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    x
}

/// Sets the XSAVE image; standard format, offered components, valid MXCSR.
pub fn set_xsave(cpu: &mut CpuState, x: &kvm_xsave) -> Result<()> {
    let bad = |why| {
        Err(Error::InvalidState {
            group: "xsave",
            why,
        })
    };
    let header =
        |i: usize| u64::from(x.region[128 + 2 * i]) | u64::from(x.region[129 + 2 * i]) << 32;
    if header(0) & !(crate::cpuid::xcr0_offered() | 3) != 0 {
        return bad("XSTATE_BV names components the guest does not have");
    }
    if header(1) != 0 {
        return bad("compacted format");
    }
    if x.region[6] >> 16 != 0 {
        return bad("MXCSR has reserved bits");
    }
    for (bytes, word) in cpu.xsave.0.chunks_exact_mut(4).zip(x.region) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Ok(())
}

/// Pending events.
pub fn events(cpu: &CpuState) -> kvm_vcpu_events {
    let e = &cpu.events;
    let mut v = kvm_vcpu_events::default();
    match e.pending {
        Some(Pending::Exception(x)) => {
            // A #DB that has not changed DR6 yet is pending with a payload.
            let payload = x.vector == x86::vector::DB && x.payload != 0;
            v.exception.injected = u8::from(!payload);
            v.exception.pending = u8::from(payload);
            v.exception_has_payload = u8::from(payload);
            v.exception_payload = if payload { x.payload } else { 0 };
            v.exception.nr = x.vector;
            v.exception.has_error_code = u8::from(x.error.is_some());
            v.exception.error_code = x.error.unwrap_or(0);
        }
        Some(Pending::Interrupt(n)) => {
            v.interrupt.injected = 1;
            v.interrupt.nr = n;
        }
        Some(Pending::Nmi) => v.nmi.injected = 1,
        None => {}
    }
    v.interrupt.shadow = match e.shadow {
        Shadow::None => 0,
        Shadow::MovSs => 1,
        Shadow::Sti => 2,
    };
    v.nmi.pending = e.nmi_pending;
    v.nmi.masked = u8::from(e.nmi_blocked);
    v.flags =
        KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_PAYLOAD;
    v
}

/// Sets pending events.
pub fn set_events(cpu: &mut CpuState, v: &kvm_vcpu_events) -> Result<()> {
    let exception = v.exception.injected != 0 || v.exception.pending != 0;
    if exception && (v.exception.nr > 31 || v.exception.nr == 2) {
        return Err(Error::InvalidState {
            group: "events",
            why: "not an exception vector",
        });
    }
    let e = &mut cpu.events;
    e.pending = if exception {
        Some(Pending::Exception(Exception {
            vector: v.exception.nr,
            error: (v.exception.has_error_code != 0).then_some(v.exception.error_code),
            payload: match v.exception_has_payload != 0 {
                true => v.exception_payload,
                false if v.exception.nr == x86::vector::PF => cpu.cr2,
                false => 0,
            },
        }))
    } else if v.interrupt.injected != 0 {
        Some(Pending::Interrupt(v.interrupt.nr))
    } else if v.nmi.injected != 0 {
        Some(Pending::Nmi)
    } else {
        None
    };
    if v.flags & KVM_VCPUEVENT_VALID_SHADOW != 0 {
        e.shadow = match v.interrupt.shadow {
            0 => Shadow::None,
            1 => Shadow::MovSs,
            _ => Shadow::Sti,
        };
    }
    if v.flags & KVM_VCPUEVENT_VALID_NMI_PENDING != 0 {
        e.nmi_pending = v.nmi.pending.min(2);
    }
    e.nmi_blocked = v.nmi.masked != 0;
    Ok(())
}

/// One row of a GSI routing table.
pub fn route(r: &kvm_irq_routing_entry) -> Result<Route> {
    let bad = |why| Error::InvalidState {
        group: "GSI routing",
        why,
    };
    let pin = |n: u32| u8::try_from(n).map_err(|_| bad("pin out of range"));
    match r.type_ {
        KVM_IRQ_ROUTING_IRQCHIP => {
            let (chip, n) = union::irqchip(r);
            match chip {
                KVM_IRQCHIP_PIC_MASTER => Ok(Route::Pic(pin(n)?)),
                KVM_IRQCHIP_PIC_SLAVE => Ok(Route::Pic(pin(n.saturating_add(8))?)),
                KVM_IRQCHIP_IOAPIC => Ok(Route::IoApic(pin(n)?)),
                _ => Err(bad("unknown chip")),
            }
        }
        KVM_IRQ_ROUTING_MSI => {
            let (low, high, data) = union::msi(r);
            Ok(Route::Msi {
                address: u64::from(low) | u64::from(high) << 32,
                data,
            })
        }
        _ => Err(bad("unknown route type")),
    }
}

/// State of one chip.
pub fn irqchip(c: &Chipset, chip: u32) -> Result<kvm_irqchip> {
    match chip {
        KVM_IRQCHIP_PIC_MASTER | KVM_IRQCHIP_PIC_SLAVE => {
            Ok(union::pic_to(chip, &c.pic().state()[chip as usize]))
        }
        KVM_IRQCHIP_IOAPIC => Ok(union::ioapic_to(&c.ioapic().state())),
        _ => Err(Error::InvalidState {
            group: "irqchip",
            why: "no such chip",
        }),
    }
}

/// Restores one chip.
pub fn set_irqchip(c: &mut Chipset, k: &kvm_irqchip) -> Result<()> {
    match k.chip_id {
        KVM_IRQCHIP_PIC_MASTER | KVM_IRQCHIP_PIC_SLAVE => {
            c.set_pic_state(k.chip_id as usize, &union::pic_from(k));
        }
        KVM_IRQCHIP_IOAPIC => c.set_ioapic_state(&union::ioapic_from(k)),
        _ => {
            return Err(Error::InvalidState {
                group: "irqchip",
                why: "no such chip",
            });
        }
    }
    Ok(())
}

/// Two structs with the same fields, and the functions from one to the other.
macro_rules! same_fields {
    ($to:ident, $from:ident: $ours:ident, $theirs:ident { $($field:ident),* $(,)? }) => {
        fn $to(s: &$ours) -> $theirs {
            $theirs { $($field: s.$field),* }
        }
        fn $from(s: &$theirs) -> $ours {
            $ours { $($field: s.$field),* }
        }
    };
}

same_fields! { pit_channel_to, pit_channel_from: PitChannelState, kvm_pit_channel_state {
    count, latched_count, count_latched, status_latched, status, read_state, write_state,
    write_latch, rw_mode, mode, bcd, gate, count_load_time,
} }

same_fields! { pic_state_to, pic_state_from: PicState, kvm_pic_state {
    last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask,
    init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask,
} }

/// State of the 8254.
pub fn pit(c: &mut Chipset, now_ns: u64) -> Result<kvm_pit_state2> {
    let s = c
        .pit()
        .ok_or(Error::Missing("pit", "create_pit"))?
        .state(now_ns);
    Ok(kvm_pit_state2 {
        channels: s.channels.each_ref().map(pit_channel_to),
        flags: s.flags,
        ..Default::default()
    })
}

/// Restores the 8254.
pub fn set_pit(c: &mut Chipset, k: &kvm_pit_state2, now_ns: u64) -> Result<()> {
    let state = PitState {
        channels: k.channels.each_ref().map(pit_channel_from),
        flags: k.flags,
    };
    let pit = c.pit().ok_or(Error::Missing("set_pit", "create_pit"))?;
    pit.set_state(&state, now_ns);
    Ok(())
}

/// KVM's unions: every variant is plain integers, so any bytes are valid.
#[allow(unsafe_code, reason = "unions of KVM's interface")]
mod union {
    use super::*;

    pub fn irqchip(r: &kvm_irq_routing_entry) -> (u32, u32) {
        // SAFETY: all variants are integers.
        let u = unsafe { r.u.irqchip };
        (u.irqchip, u.pin)
    }
    pub fn msi(r: &kvm_irq_routing_entry) -> (u32, u32, u32) {
        // SAFETY: all variants are integers.
        let u = unsafe { r.u.msi };
        (u.address_lo, u.address_hi, u.data)
    }
    pub fn pic_to(chip: u32, s: &PicState) -> kvm_irqchip {
        let mut k = kvm_irqchip {
            chip_id: chip,
            ..Default::default()
        };
        k.chip.pic = pic_state_to(s);
        k
    }
    pub fn pic_from(k: &kvm_irqchip) -> PicState {
        // SAFETY: all variants are integers.
        pic_state_from(unsafe { &k.chip.pic })
    }
    pub fn ioapic_to(s: &IoApicState) -> kvm_irqchip {
        let mut k = kvm_irqchip {
            chip_id: KVM_IRQCHIP_IOAPIC,
            ..Default::default()
        };
        let mut io = kvm_ioapic_state {
            base_address: s.base_address,
            ioregsel: s.ioregsel,
            id: s.id,
            irr: s.irr,
            ..Default::default()
        };
        for (to, from) in io.redirtbl.iter_mut().zip(s.redirtbl) {
            to.bits = from;
        }
        k.chip.ioapic = io;
        k
    }
    pub fn ioapic_from(k: &kvm_irqchip) -> IoApicState {
        // SAFETY: all variants are integers.
        let s = unsafe { k.chip.ioapic };
        IoApicState {
            base_address: s.base_address,
            ioregsel: s.ioregsel,
            id: s.id,
            irr: s.irr,
            // SAFETY: all variants are integers.
            redirtbl: s.redirtbl.map(|e| unsafe { e.bits }),
        }
    }
}
