//! Instructions decoded for one address, executed at another.

use iced_x86::{Instruction, OpKind};

/// `insn` as if its bytes lay `by` further on in the linear address space.
pub fn moved(insn: &Instruction, by: u64) -> Instruction {
    let mut insn = *insn;
    if by == 0 {
        return insn;
    }
    // Asked first: it depends on nothing that changes.
    let target = insn.near_branch_target().wrapping_add(by);
    insn.set_ip(insn.ip().wrapping_add(by));
    if insn.is_ip_rel_memory_operand() {
        let to = insn.ip_rel_memory_address().wrapping_add(by);
        let wide = insn.memory_base().size() == 8;
        insn.set_memory_displacement64(if wide { to } else { to & 0xffff_ffff });
    }
    match insn.op0_kind() {
        OpKind::NearBranch16 => insn.set_near_branch16(target as u16),
        OpKind::NearBranch32 => insn.set_near_branch32(target as u32),
        OpKind::NearBranch64 => insn.set_near_branch64(target),
        _ => {}
    }
    insn
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn decode(bits: u32, bytes: &[u8], ip: u64) -> Instruction {
        Decoder::with_ip(bits, bytes, ip, DecoderOptions::NONE).decode()
    }

    fn check(bits: u32, bytes: &[u8], page: u64) {
        let want = decode(bits, bytes, page + 0x123);
        let got = moved(&decode(bits, bytes, 0x123), page);
        assert_eq!(got, want, "{want} at {page:#x}");
        assert_eq!(got.ip(), want.ip());
        assert_eq!(got.next_ip(), want.next_ip());
        assert_eq!(got.near_branch_target(), want.near_branch_target());
        let memory = |i: &Instruction| i.ip_rel_memory_address();
        if want.is_ip_rel_memory_operand() {
            assert_eq!(memory(&got), memory(&want));
        }
    }

    #[test]
    fn a_moved_instruction_is_what_its_bytes_say_there() {
        let both: [&[u8]; 7] = [
            &[0x90],
            &[0x8b, 0x40, 0x10],
            &[0x74, 0x80],
            &[0x0f, 0x85, 0x00, 0x00, 0x00, 0x80],
            &[0xe8, 0xff, 0xff, 0xff, 0x7f],
            &[0xe3, 0x10],
            &[0xcd, 0x80],
        ];
        let wide: [&[u8]; 3] = [
            &[0x48, 0x8b, 0x05, 0x00, 0x00, 0x00, 0x80],
            &[0x67, 0x8b, 0x05, 0xff, 0xff, 0xff, 0x7f],
            &[0x48, 0x8d, 0x0d, 0x10, 0x00, 0x00, 0x00],
        ];
        let narrow: [&[u8]; 2] = [&[0x66, 0xe9, 0x00, 0x80], &[0xa1, 1, 2, 3, 4]];
        for page in [0, 0x1000, 0x40_0000, 0xffff_f000] {
            both.iter().chain(&narrow).for_each(|b| check(32, b, page));
        }
        for page in [0, 0x40_0000, 0x7fff_ffff_f000] {
            both.iter().chain(&wide).for_each(|b| check(64, b, page));
        }
    }
}
