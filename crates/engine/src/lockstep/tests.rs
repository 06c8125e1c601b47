//! Small guests in lockstep: right translations pass, wrong ones are caught.
#![allow(unsafe_code, reason = "writes guest memory behind the engine's back")]

use super::SABOTAGE;
use crate::Options;
use crate::testing::{CODE, DATA, Guest};
use hv::{Error, Result, VcpuExit};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

fn in_lockstep(
    build: impl FnOnce(&mut CodeAssembler) -> std::result::Result<(), IcedError>,
) -> Guest {
    let options = Options {
        lockstep: true,
        ..Options::default()
    };
    Guest::new(options, build)
}

/// A loop that adds up numbers, stores every sum and keeps some in XMM0.
fn sums(a: &mut CodeAssembler) -> std::result::Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(ecx, 100)?;
    a.mov(edi, DATA)?;
    a.set_label(&mut again)?;
    a.add(eax, ecx)?;
    a.mov(dword_ptr(edi), eax)?;
    a.movd(xmm1, eax)?;
    a.paddd(xmm0, xmm1)?;
    a.add(edi, 4)?;
    a.dec(ecx)?;
    a.jne(again)?;
    a.movd(ebx, xmm0)?;
    a.hlt()
}

fn difference(result: Result<VcpuExit>) -> String {
    match result {
        Err(Error::SelfCheck(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Runs `f` with translations in which one byte value is another.
fn sabotaged<T>(from: u8, to: u8, f: impl FnOnce() -> T) -> T {
    SABOTAGE.set(Some((from, to)));
    let result = f();
    SABOTAGE.set(None);
    result
}

#[test]
fn a_right_translation_runs_to_its_end() {
    let mut guest = in_lockstep(sums);
    assert_eq!(guest.run().unwrap(), VcpuExit::Hlt);
    let regs = guest.vcpu.regs().unwrap();
    assert_eq!(regs.rax, 5050);
    // 100 was in every sum, 1 in the last one only: the squares up to 100.
    assert_eq!(regs.rbx, 338_350);
    assert!(guest.counter("lockstep_blocks") >= 100);
    assert_eq!(guest.counter("lockstep_races"), 0);
}

#[test]
fn a_wrong_register_is_shown() {
    // add eax, ecx (01 c8) becomes sub eax, ecx (29 c8).
    let text = sabotaged(0x01, 0x29, || difference(in_lockstep(sums).run()));
    assert!(
        text.contains("at 0x1000 (gpa 0x1000), 32-bit code, CPL 0"),
        "{text}"
    );
    assert!(text.contains("add eax,ecx"), "{text}");
    assert!(text.contains("rax                         0x64"), "{text}");
    assert!(
        text.contains("memory gpa 0x20000          64 00 00 00                 9c ff ff ff"),
        "{text}"
    );
}

#[test]
fn a_wrong_store_is_shown() {
    // mov [edi], eax (89 07) becomes mov [edi], al (88 07).
    let text = sabotaged(0x89, 0x88, || {
        difference(
            in_lockstep(|a| {
                a.mov(edi, DATA)?;
                a.mov(eax, 0x1234)?;
                a.mov(dword_ptr(edi), eax)?;
                a.hlt()
            })
            .run(),
        )
    });
    assert!(text.contains("memory gpa 0x20001          12"), "{text}");
    assert!(!text.contains("memory gpa 0x20000 "), "{text}");
}

#[test]
fn a_store_that_is_too_wide_is_shown() {
    // mov [edi], al becomes mov [edi], eax: the neighbour bytes change.
    let text = sabotaged(0x88, 0x89, || {
        difference(
            in_lockstep(|a| {
                a.mov(edi, DATA)?;
                a.mov(eax, 0x1234)?;
                a.mov(byte_ptr(edi), al)?;
                a.hlt()
            })
            .run(),
        )
    });
    assert!(text.contains("memory gpa 0x20001          00"), "{text}");
}

#[test]
fn a_wrong_flag_is_shown() {
    // cmp eax, ecx (39 c8) becomes test eax, ecx (85 c8).
    let text = sabotaged(0x39, 0x85, || {
        difference(
            in_lockstep(|a| {
                a.mov(eax, 5)?;
                a.mov(ecx, 2)?;
                a.cmp(eax, ecx)?;
                a.hlt()
            })
            .run(),
        )
    });
    assert!(text.contains("rflags"), "{text}");
}

#[test]
fn a_wrong_branch_is_shown() {
    // jne becomes je.
    let text = sabotaged(0x75, 0x74, || difference(in_lockstep(sums).run()));
    assert!(text.contains("\n  rip "), "{text}");
}

#[test]
fn a_wrong_vector_result_is_shown() {
    // paddd (66 0f fe) becomes paddw (66 0f fd): the same until a carry.
    let text = sabotaged(0xfe, 0xfd, || {
        difference(
            in_lockstep(|a| {
                a.mov(eax, 0xffff)?;
                a.movd(xmm0, eax)?;
                a.paddd(xmm0, xmm0)?;
                a.hlt()
            })
            .run(),
        )
    });
    assert!(text.contains("xmm, image byte 160"), "{text}");
}

#[test]
fn code_that_changes_itself_is_compared_as_it_is() {
    let mut guest = in_lockstep(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 3)?;
        a.set_label(&mut again)?;
        a.add(eax, 0x10)?; // 05 10 00 00 00
        a.inc(byte_ptr(CODE as u32 + 6))?; // its immediate
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    assert_eq!(guest.run().unwrap(), VcpuExit::Hlt);
    assert_eq!(guest.vcpu.regs().unwrap().rax, 0x10 + 0x11 + 0x12);
}

#[test]
fn a_device_in_the_middle_of_a_block() {
    let mut guest = in_lockstep(|a| {
        a.mov(edi, DATA)?;
        a.mov(dword_ptr(edi), 7)?;
        a.mov(eax, dword_ptr(0x80_0000))?; // no memory there
        a.mov(dword_ptr(edi + 4), eax)?;
        a.rdtsc()?;
        a.hlt()
    });
    let read = guest.run().unwrap();
    assert_eq!(
        read,
        VcpuExit::MmioRead {
            gpa: 0x80_0000,
            size: 4
        }
    );
    guest.vcpu.complete_read(0x55);
    assert_eq!(guest.run().unwrap(), VcpuExit::Hlt);
    let mut word = [0; 4];
    // SAFETY: inside the guest's memory; the vCPU does not run.
    unsafe {
        guest
            .ram
            .add(DATA as usize + 4)
            .copy_to(word.as_mut_ptr(), 4)
    };
    assert_eq!(word, [0x55, 0, 0, 0]);
}

#[test]
fn a_second_vcpu_is_refused() {
    let guest = in_lockstep(sums);
    let refused = guest.vm.create_vcpu(1).map(|_| ()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "lockstep with more than one vCPU is not supported by this backend"
    );
}
