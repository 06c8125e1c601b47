//! A vCPU between the contract's structures and the schema's.

use super::chips::check_len;
use crate::outcome::{Error, Result};
use hv::Vcpu;
use hv::abi::{
    kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events,
    kvm_xsave,
};
use state::vcpu::{CpuidLeaf, DebugRegs, Events, Msr, Regs, Segment, Sregs, Table};
use x86::msr;

/// Words of a local APIC's page, one for each 16 bytes.
const LAPIC_WORDS: usize = 64;
/// The timer's present count (SDM vol. 3A, table 11-1).
const CURRENT_COUNT: usize = 0x39;

macro_rules! copy {
    ($from:expr, $to:ident { $($field:ident),* $(,)? } $($rest:tt)*) => {
        $to { $($field: $from.$field,)* $($rest)* }
    };
}

macro_rules! regs {
    ($from:expr, $to:ident) => {
        copy!(
            $from,
            $to {
                rax,
                rbx,
                rcx,
                rdx,
                rsi,
                rdi,
                rsp,
                rbp,
                r8,
                r9,
                r10,
                r11,
                r12,
                r13,
                r14,
                r15,
                rip,
                rflags,
            }
        )
    };
}

macro_rules! segment {
    ($from:expr, $to:ident $($rest:tt)*) => {
        copy!($from, $to {
            base, limit, selector, type_, present, dpl, db, s, l, g, avl, unusable,
        } $($rest)*)
    };
}

/// All of a vCPU; `msrs` are those worth saving, what it lacks is left out.
pub fn save(vcpu: &dyn Vcpu, msrs: &[u32]) -> Result<state::vcpu::Vcpu> {
    let lapic = vcpu.lapic()?;
    let mut lapic: Vec<u32> = words(&lapic.regs.map(|b| b as u8))
        .into_iter()
        .step_by(4)
        .collect();
    let lapic_count = std::mem::take(&mut lapic[CURRENT_COUNT]);
    let cpuid = vcpu.cpuid()?;
    let cpuid = cpuid.iter().map(|e| CpuidLeaf {
        function: e.function,
        index: e.index,
        flags: e.flags,
        registers: [e.eax, e.ebx, e.ecx, e.edx],
    });
    let debug = vcpu.debug_regs()?;
    let mut saved = Vec::new();
    for &index in msrs.iter().filter(|&&index| index != msr::TSC) {
        match vcpu.msr(index) {
            Ok(value) => saved.push(Msr { index, value }),
            Err(hv::Error::NoSuchMsr(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(state::vcpu::Vcpu {
        regs: regs!(vcpu.regs()?, Regs),
        sregs: sregs_of(&vcpu.sregs()?),
        xcr0: vcpu.xcr0()?,
        xsave: vcpu.xsave()?.region.to_vec(),
        debug: copy!(debug, DebugRegs { db, dr6, dr7 }),
        events: events_of(&vcpu.events()?),
        mp_state: vcpu.mp_state()?,
        lapic,
        lapic_count,
        tsc: vcpu.msr(msr::TSC)?,
        msrs: saved,
        cpuid: cpuid.collect(),
    })
}

/// Puts a state into a vCPU that has not run. The order is KVM's: CPUID came
/// with the board, the APIC's base before its registers, those before the
/// deadline, events last.
pub fn restore(vcpu: &mut dyn Vcpu, from: &state::vcpu::Vcpu, number: usize) -> Result<()> {
    let name = format!("vcpu/{number}");
    check_cpuid(vcpu, from, &name)?;
    let mut xsave = kvm_xsave::default();
    check_len(
        &name,
        "words of XSAVE image",
        from.xsave.len(),
        xsave.region.len(),
    )?;
    check_len(
        &name,
        "registers of the APIC",
        from.lapic.len(),
        LAPIC_WORDS,
    )?;
    xsave.region.copy_from_slice(&from.xsave);
    vcpu.set_mp_state(from.mp_state)?;
    vcpu.set_sregs(&sregs_to(&from.sregs))?;
    vcpu.set_regs(&regs!(from.regs, kvm_regs))?;
    vcpu.set_xcr0(from.xcr0)?;
    vcpu.set_xsave(&xsave)?;
    let debug = copy!(
        from.debug,
        kvm_debugregs { db, dr6, dr7 }..Default::default()
    );
    vcpu.set_debug_regs(&debug)?;
    vcpu.set_msr(msr::TSC, from.tsc)?;
    let (deadline, others): (Vec<_>, Vec<_>) =
        from.msrs.iter().partition(|m| m.index == msr::TSC_DEADLINE);
    for msr in others {
        vcpu.set_msr(msr.index, msr.value)?;
    }
    vcpu.set_lapic(&lapic_to(from))?;
    for msr in deadline {
        vcpu.set_msr(msr.index, msr.value)?;
    }
    vcpu.set_events(&events_to(&from.events))?;
    Ok(())
}

/// A guest must find the CPU it was promised.
fn check_cpuid(vcpu: &dyn Vcpu, from: &state::vcpu::Vcpu, name: &str) -> Result<()> {
    let present = vcpu.cpuid()?;
    let same = present.len() == from.cpuid.len()
        && present.iter().zip(&from.cpuid).all(|(a, b)| {
            (a.function, a.index) == (b.function, b.index)
                && [a.eax, a.ebx, a.ecx, a.edx] == b.registers
        });
    match same {
        true => Ok(()),
        false => Err(Error::State(format!(
            "{name}: it was saved with another CPU (CPUID differs)"
        ))),
    }
}

/// Little-endian words of bytes.
fn words(bytes: &[u8]) -> Vec<u32> {
    let chunks = bytes.as_chunks::<4>().0;
    chunks.iter().map(|c| u32::from_le_bytes(*c)).collect()
}

fn lapic_to(from: &state::vcpu::Vcpu) -> kvm_lapic_state {
    let mut page = kvm_lapic_state::default();
    for (i, &word) in from.lapic.iter().enumerate() {
        let word = if i == CURRENT_COUNT {
            from.lapic_count
        } else {
            word
        };
        for (to, byte) in page.regs[16 * i..].iter_mut().zip(word.to_le_bytes()) {
            *to = byte as _;
        }
    }
    page
}

fn sregs_of(s: &kvm_sregs) -> Sregs {
    let table = |t: &kvm_dtable| copy!(t, Table { base, limit });
    Sregs {
        cs: segment!(s.cs, Segment),
        ds: segment!(s.ds, Segment),
        es: segment!(s.es, Segment),
        fs: segment!(s.fs, Segment),
        gs: segment!(s.gs, Segment),
        ss: segment!(s.ss, Segment),
        tr: segment!(s.tr, Segment),
        ldt: segment!(s.ldt, Segment),
        gdt: table(&s.gdt),
        idt: table(&s.idt),
        ..copy!(
            s,
            Sregs {
                cr0,
                cr2,
                cr3,
                cr4,
                cr8,
                efer,
                apic_base,
                interrupt_bitmap,
            }..Sregs::default()
        )
    }
}

fn sregs_to(s: &Sregs) -> kvm_sregs {
    let segment = |s: &Segment| segment!(s, kvm_segment..Default::default());
    let table = |t: &Table| copy!(t, kvm_dtable { base, limit }..Default::default());
    kvm_sregs {
        cs: segment(&s.cs),
        ds: segment(&s.ds),
        es: segment(&s.es),
        fs: segment(&s.fs),
        gs: segment(&s.gs),
        ss: segment(&s.ss),
        tr: segment(&s.tr),
        ldt: segment(&s.ldt),
        gdt: table(&s.gdt),
        idt: table(&s.idt),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        apic_base: s.apic_base,
        interrupt_bitmap: s.interrupt_bitmap,
    }
}

fn events_of(e: &kvm_vcpu_events) -> Events {
    Events {
        exception_injected: e.exception.injected,
        exception_nr: e.exception.nr,
        exception_has_error_code: e.exception.has_error_code,
        exception_pending: e.exception.pending,
        exception_error_code: e.exception.error_code,
        exception_has_payload: e.exception_has_payload,
        exception_payload: e.exception_payload,
        interrupt_injected: e.interrupt.injected,
        interrupt_nr: e.interrupt.nr,
        interrupt_soft: e.interrupt.soft,
        interrupt_shadow: e.interrupt.shadow,
        nmi_injected: e.nmi.injected,
        nmi_pending: e.nmi.pending,
        nmi_masked: e.nmi.masked,
        sipi_vector: e.sipi_vector,
        flags: e.flags,
        smi: [
            e.smi.smm,
            e.smi.pending,
            e.smi.smm_inside_nmi,
            e.smi.latched_init,
        ],
    }
}

fn events_to(e: &Events) -> kvm_vcpu_events {
    let mut to = kvm_vcpu_events::default();
    to.exception.injected = e.exception_injected;
    to.exception.nr = e.exception_nr;
    to.exception.has_error_code = e.exception_has_error_code;
    to.exception.pending = e.exception_pending;
    to.exception.error_code = e.exception_error_code;
    to.exception_has_payload = e.exception_has_payload;
    to.exception_payload = e.exception_payload;
    to.interrupt.injected = e.interrupt_injected;
    to.interrupt.nr = e.interrupt_nr;
    to.interrupt.soft = e.interrupt_soft;
    to.interrupt.shadow = e.interrupt_shadow;
    to.nmi.injected = e.nmi_injected;
    to.nmi.pending = e.nmi_pending;
    to.nmi.masked = e.nmi_masked;
    to.sipi_vector = e.sipi_vector;
    to.flags = e.flags;
    [
        to.smi.smm,
        to.smi.pending,
        to.smi.smm_inside_nmi,
        to.smi.latched_init,
    ] = e.smi;
    to
}
