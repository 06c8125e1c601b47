//! Every encoding the decoder knows, found by trying: opcode maps, prefixes
//! and ModRM forms (SDM vol 2, 2.1 to 2.7; APM vol 3, 1.8 for XOP).

use std::collections::HashMap;

use iced_x86::{Code, Decoder, DecoderOptions};

/// Longest instruction in bytes.
const MAX_LEN: usize = 15;

/// One encoding of a code.
#[derive(Clone, Debug)]
pub struct Encoding {
    /// 16, 32 or 64.
    pub bits: u32,
    /// The instruction's bytes.
    pub bytes: Vec<u8>,
}

/// An encoding of every code that is decoded in some mode, in each of the
/// modes that decode it.
pub fn all() -> HashMap<Code, Vec<Encoding>> {
    let mut found = Found {
        by_code: vec![[const { None }; 3]; Code::values().len()],
    };
    for bits in [16, 32, 64] {
        legacy(&mut found, bits);
        for tail in tails() {
            vex(&mut found, bits, &tail);
            evex(&mut found, bits, &tail);
        }
    }
    let with_codes = Code::values().zip(found.by_code);
    with_codes
        .map(|(code, modes)| (code, modes.into_iter().flatten().collect::<Vec<_>>()))
        .filter(|(_, list)| !list.is_empty())
        .collect()
}

struct Found {
    /// By code and mode.
    by_code: Vec<[Option<Encoding>; 3]>,
}

impl Found {
    /// Decodes `head`, `tail` and zeros.
    fn try_bytes(&mut self, bits: u32, head: &[u8], tail: &[u8]) {
        let mut bytes = [0; MAX_LEN];
        bytes[..head.len()].copy_from_slice(head);
        bytes[head.len()..head.len() + tail.len()].copy_from_slice(tail);
        let insn = Decoder::new(bits, &bytes, DecoderOptions::NONE).decode();
        if insn.is_invalid() {
            return;
        }
        let slot = &mut self.by_code[insn.code() as usize][bits as usize / 32];
        slot.get_or_insert_with(|| Encoding {
            bits,
            bytes: bytes[..insn.len()].to_vec(),
        });
    }
}

/// Opcode and ModRM: every opcode with register forms of each number, memory
/// forms of each `reg` field, and a SIB byte with an index.
fn tails() -> Vec<[u8; 3]> {
    let modrm = (0..8u8).flat_map(|reg| {
        let memory = [reg << 3, reg << 3 | 4];
        (0..8).map(move |rm| 0xc0 | reg << 3 | rm).chain(memory)
    });
    let modrm: Vec<u8> = modrm.collect();
    let opcodes = 0..=255u8;
    opcodes
        .flat_map(|opcode| modrm.iter().map(move |&m| [opcode, m, 0x0c]))
        .collect()
}

fn legacy(found: &mut Found, bits: u32) {
    let escapes: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    let mandatory: [&[u8]; 6] = [&[], &[0x66], &[0xf3], &[0xf2], &[0x66, 0xf3], &[0x66, 0xf2]];
    let address: [&[u8]; 2] = [&[], &[0x67]];
    let rex: &[&[u8]] = match bits {
        64 => &[&[], &[0x48]],
        _ => &[&[]],
    };
    let tails = tails();
    for escape in escapes {
        for prefix in mandatory {
            for address in address {
                for rex in rex {
                    let head = [address, prefix, rex, escape].concat();
                    tails.iter().for_each(|t| found.try_bytes(bits, &head, t));
                }
            }
        }
    }
    // 3DNow! has its opcode behind the operands, a WAIT form a WAIT before.
    for last in 0..=255 {
        found.try_bytes(bits, &[0x0f, 0x0f, 0xc0, last], &[]);
    }
    for t in &tails {
        found.try_bytes(bits, &[0x9b], t);
    }
}

/// VEX (0xc4) and XOP (0x8f): map, W, L and pp, with and without a second
/// source register.
fn vex(found: &mut Found, bits: u32, tail: &[u8; 3]) {
    for (escape, maps) in [(0xc4, &[1u8, 2, 3, 7][..]), (0x8f, &[8, 9, 10])] {
        for map in maps {
            for last in 0..16u8 {
                let (w, low) = (last >> 3 << 7, last & 7);
                for vvvv in [0x78, 0x68] {
                    let head = [escape, 0xe0 | map, w | vvvv | low];
                    found.try_bytes(bits, &head, tail);
                }
            }
        }
    }
}

/// EVEX: map, W, pp, vector length, with and without an opmask or a second
/// source.
fn evex(found: &mut Found, bits: u32, tail: &[u8; 3]) {
    for map in [1, 2, 3, 5, 6] {
        for last in 0..8u8 {
            let (w, pp) = (last >> 2 << 7, last & 3);
            for vvvv in [0x78, 0x68] {
                for length in [0u8, 0x20, 0x40] {
                    for mask in [0x08, 0x09, 0x18] {
                        let head = [0x62, 0xf0 | map, w | vvvv | 4 | pp, length | mask];
                        found.try_bytes(bits, &head, tail);
                    }
                }
            }
        }
    }
}
