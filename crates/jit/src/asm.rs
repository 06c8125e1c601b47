//! A small assembler for the glue between copied instructions. Only the forms
//! that the translator emits exist; every form is 64-bit mode.

use crate::buffer::Buffer;

/// Condition codes as encoded in Jcc (SDM vol 1, appendix B).
pub mod cc {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const E: u8 = 4;
    pub const NE: u8 = 5;
    pub const BE: u8 = 6;
    pub const A: u8 = 7;
    pub const G: u8 = 15;
}

/// One-byte ALU opcodes in their `r, r/m` form.
pub mod op {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const ADD: u8 = 0x03;
    pub const OR: u8 = 0x0b;
    pub const AND: u8 = 0x23;
    pub const SUB: u8 = 0x2b;
    pub const XOR: u8 = 0x33;
    pub const CMP: u8 = 0x3b;
    pub const XCHG: u8 = 0x87;
    pub const MOV: u8 = 0x8b;
    pub const MOV_STORE: u8 = 0x89;
    pub const LEA: u8 = 0x8d;
    pub const MOV_IMM: u8 = 0xc7;
}

/// A growing stream of code bytes.
#[derive(Debug, Default)]
pub struct Asm {
    /// The bytes.
    pub buf: Buffer,
}

impl Asm {
    #[inline]
    pub fn len(&self) -> usize {
        self.buf.len()
    }
    #[inline(always)]
    pub fn bytes(&mut self, b: &[u8]) {
        self.buf.extend_from_slice(b);
    }
    #[inline(always)]
    pub fn u32(&mut self, v: u32) {
        self.buf.extend_from_slice(&v.to_le_bytes());
    }
    #[inline(always)]
    fn rex(&mut self, w: bool, reg: u8, index: u8, base: u8) {
        let rex = 0x40 | u8::from(w) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0x40 {
            self.buf.push(rex);
        }
    }
    /// `op reg, gs:[disp]` (or the store direction, by opcode).
    #[inline]
    pub fn gs(&mut self, w: bool, op: u8, reg: u8, disp: u32) {
        self.buf.push(0x65);
        self.rex(w, reg, 0, 0);
        self.bytes(&[op, (reg & 7) << 3 | 4, 0x25]);
        self.u32(disp);
    }
    /// `op reg, gs:[index * 2^scale + disp]`.
    #[inline]
    pub fn gs_index(&mut self, w: bool, op: u8, reg: u8, (index, scale): (u8, u8), disp: u32) {
        self.buf.push(0x65);
        self.rex(w, reg, index, 0);
        let sib = scale << 6 | (index & 7) << 3 | 5;
        self.bytes(&[op, (reg & 7) << 3 | 4, sib]);
        self.u32(disp);
    }
    /// `mov dword gs:[disp], imm32`.
    pub fn gs_store_imm(&mut self, disp: u32, imm: u32) {
        self.bytes(&[0x65, 0xc7, 0x04, 0x25]);
        self.u32(disp);
        self.u32(imm);
    }
    /// `mov qword gs:[disp], 0`.
    pub fn gs_store_zero(&mut self, disp: u32) {
        self.bytes(&[0x65, 0x48, 0xc7, 0x04, 0x25]);
        self.u32(disp);
        self.u32(0);
    }
    /// `dec dword gs:[disp]`.
    pub fn gs_dec(&mut self, disp: u32) {
        self.bytes(&[0x65, 0xff, 0x0c, 0x25]);
        self.u32(disp);
    }
    /// `and dword gs:[disp], imm32`.
    pub fn gs_and_imm(&mut self, disp: u32, imm: u32) {
        self.bytes(&[0x65, 0x81, 0x24, 0x25]);
        self.u32(disp);
        self.u32(imm);
    }
    /// `test dword gs:[disp], imm32`.
    pub fn gs_test_imm(&mut self, disp: u32, imm: u32) {
        self.bytes(&[0x65, 0xf7, 0x04, 0x25]);
        self.u32(disp);
        self.u32(imm);
    }
    /// `or dword gs:[disp], imm32`.
    pub fn gs_or_imm(&mut self, disp: u32, imm: u32) {
        self.bytes(&[0x65, 0x81, 0x0c, 0x25]);
        self.u32(disp);
        self.u32(imm);
    }
    /// `movzx reg32, word gs:[disp]`.
    pub fn gs_movzx16(&mut self, reg: u8, disp: u32) {
        self.buf.push(0x65);
        self.rex(false, reg, 0, 0);
        self.bytes(&[0x0f, 0xb7, (reg & 7) << 3 | 4, 0x25]);
        self.u32(disp);
    }
    /// `0f op [base + index], reg`.
    pub fn mem_0f(&mut self, w: bool, op: u8, reg: u8, base: u8, index: u8) {
        self.rex(w, reg, index, base);
        self.bytes(&[
            0x0f,
            op,
            0x44 | (reg & 7) << 3,
            (index & 7) << 3 | base & 7,
            0,
        ]);
    }
    /// `movsxd dst64, src32`.
    pub fn movsxd(&mut self, dst: u8, src: u8) {
        self.rr(true, 0x63, dst, src);
    }
    /// `sar reg64, imm`.
    pub fn sar_imm(&mut self, reg: u8, imm: u8) {
        self.rex(true, 0, 0, reg);
        self.bytes(&[0xc1, 0xf8 | reg & 7, imm]);
    }
    /// `cmp dword gs:[disp], imm8`.
    pub fn gs_cmp_imm8(&mut self, disp: u32, imm: u8) {
        self.bytes(&[0x65, 0x83, 0x3c, 0x25]);
        self.u32(disp);
        self.buf.push(imm);
    }
    /// `cmp byte gs:[disp], imm8`.
    pub fn gs_cmp8_imm8(&mut self, disp: u32, imm: u8) {
        self.bytes(&[0x65, 0x80, 0x3c, 0x25]);
        self.u32(disp);
        self.buf.push(imm);
    }
    /// `op reg, rm` between registers.
    #[inline]
    pub fn rr(&mut self, w: bool, op: u8, reg: u8, rm: u8) {
        self.rex(w, reg, 0, rm);
        self.bytes(&[op, 0xc0 | (reg & 7) << 3 | rm & 7]);
    }
    /// `op reg, [base + index * 2^scale + disp]`, the shortest form; no index
    /// if `None`.
    #[inline]
    pub fn mem(&mut self, w: bool, op: u8, reg: u8, base: u8, index: Option<(u8, u8)>, disp: i32) {
        let (ix, scale) = index.unwrap_or((4, 0));
        self.rex(w, reg, ix, base);
        let short = i8::try_from(disp).ok();
        let mode = match short {
            Some(0) if base & 7 != 5 => 0,
            Some(_) => 0x40,
            None => 0x80,
        };
        let (reg, base) = ((reg & 7) << 3, base & 7);
        if index.is_none() && base != 4 {
            self.bytes(&[op, mode | reg | base]);
        } else {
            self.bytes(&[op, mode | reg | 4, scale << 6 | (ix & 7) << 3 | base]);
        }
        match (mode, short) {
            (0, _) => {}
            (_, Some(d)) => self.buf.push(d as u8),
            _ => self.u32(disp as u32),
        }
    }
    /// `movzx reg32, word [base + disp8]`.
    pub fn mem_movzx16(&mut self, reg: u8, base: u8, disp: i8) {
        self.rex(false, reg, 0, base);
        self.bytes(&[0x0f, 0xb7, 0x44 | (reg & 7) << 3, 0x20 | base & 7]);
        self.buf.push(disp.cast_unsigned());
    }
    /// `dst = src + by`, without touching flags: the host renames what it moves, and
    /// waits for what it computes.
    pub fn copy_and(&mut self, w: bool, dst: u8, src: u8, by: i32) {
        match by {
            0 => self.rr(w, op::MOV, dst, src),
            _ => self.mem(w, op::LEA, dst, src, None, by),
        }
    }
    /// `lea reg, [index * 2^scale + disp32]`.
    pub fn lea_scaled(&mut self, w: bool, reg: u8, index: u8, scale: u8, disp: i32) {
        self.rex(w, reg, index, 0);
        self.bytes(&[
            op::LEA,
            (reg & 7) << 3 | 4,
            scale << 6 | (index & 7) << 3 | 5,
        ]);
        self.u32(disp as u32);
    }
    /// `mov [base + index * 2^scale + disp32], imm32`, 64-bit (sign-extended)
    /// if `w`.
    pub fn mem_store_imm(
        &mut self,
        w: bool,
        base: u8,
        index: Option<(u8, u8)>,
        disp: i32,
        imm: i32,
    ) {
        self.mem(w, op::MOV_IMM, 0, base, index, disp);
        self.u32(imm as u32);
    }
    /// `mov reg, imm`, the shortest form.
    pub fn mov_imm(&mut self, reg: u8, imm: u64) {
        if let Ok(v) = u32::try_from(imm) {
            self.rex(false, 0, 0, reg);
            self.buf.push(0xb8 | reg & 7);
            self.u32(v);
        } else if imm as i64 == i64::from(imm as i32) {
            self.rex(true, 0, 0, reg);
            self.bytes(&[0xc7, 0xc0 | reg & 7]);
            self.u32(imm as u32);
        } else {
            self.rex(true, 0, 0, reg);
            self.buf.push(0xb8 | reg & 7);
            self.bytes(&imm.to_le_bytes());
        }
    }
    /// `op reg, imm32`, of 64 bits if `w`; `op` is named by its `r, r/m` form.
    pub fn alu_imm(&mut self, w: bool, op: u8, reg: u8, imm: u32) {
        self.rex(w, 0, 0, reg);
        self.bytes(&[0x81, 0xc0 | op & 0x38 | reg & 7]);
        self.u32(imm);
    }
    /// `cmp reg, imm32` (64-bit).
    pub fn cmp_imm(&mut self, reg: u8, imm: u32) {
        self.alu_imm(true, op::CMP, reg, imm);
    }
    /// `and reg32, imm32`.
    pub fn and_imm(&mut self, reg: u8, imm: u32) {
        self.alu_imm(false, op::AND, reg, imm);
    }
    /// Exchanges the two low bytes of RAX, RCX, RDX or RBX.
    pub fn swap_bytes(&mut self, reg: u8) {
        self.bytes(&[op::XCHG - 1, 0xc0 | reg << 3 | 4 | reg]);
    }
    /// `test reg1, reg2`.
    pub fn test_rr(&mut self, w: bool, reg1: u8, reg2: u8) {
        self.rr(w, 0x85, reg1, reg2);
    }
    /// `or reg32, imm32`.
    pub fn or_imm(&mut self, reg: u8, imm: u32) {
        self.alu_imm(false, op::OR, reg, imm);
    }
    /// `not reg64`.
    pub fn not(&mut self, reg: u8) {
        self.rex(true, 0, 0, reg);
        self.bytes(&[0xf7, 0xd0 | reg & 7]);
    }
    /// `test reg32, imm32`.
    pub fn test_imm(&mut self, reg: u8, imm: u32) {
        self.rex(false, 0, 0, reg);
        self.bytes(&[0xf7, 0xc0 | reg & 7]);
        self.u32(imm);
    }
    /// `test reg64, imm32`, sign-extended.
    pub fn test_imm64(&mut self, reg: u8, imm: i32) {
        self.rex(true, 0, 0, reg);
        self.bytes(&[0xf7, 0xc0 | reg & 7]);
        self.u32(imm.cast_unsigned());
    }
    /// `test reg8, imm8` of a register's low byte.
    pub fn test_imm8(&mut self, reg: u8, imm: u8) {
        self.bytes(&[0x40 | reg >> 3, 0xf6, 0xc0 | reg & 7, imm]);
    }
    /// `rorx dst, src, imm` (BMI2): rotates without touching flags.
    pub fn rorx(&mut self, dst: u8, src: u8, imm: u8) {
        let vex1 = (!(dst >> 3) & 1) << 7 | 1 << 6 | (!(src >> 3) & 1) << 5 | 3;
        self.bytes(&[0xc4, vex1, 0xfb, 0xf0, 0xc0 | (dst & 7) << 3 | src & 7, imm]);
    }
    /// `shr reg64, imm`.
    pub fn shr_imm(&mut self, reg: u8, imm: u8) {
        self.rex(true, 0, 0, reg);
        self.bytes(&[0xc1, 0xe8 | reg & 7, imm]);
    }
    /// `shl reg64, imm`.
    pub fn shl_imm(&mut self, reg: u8, imm: u8) {
        self.rex(true, 0, 0, reg);
        self.bytes(&[0xc1, 0xe0 | reg & 7, imm]);
    }
    /// `lea reg, [rip + disp32]`; returns the offset of the displacement.
    pub fn lea_rip(&mut self, reg: u8) -> usize {
        self.rex(true, reg, 0, 0);
        self.bytes(&[op::LEA, (reg & 7) << 3 | 5]);
        self.u32(0);
        self.len() - 4
    }
    /// `movzx dst32, src16`.
    pub fn movzx16(&mut self, dst: u8, src: u8) {
        self.rex(false, dst, 0, src);
        self.bytes(&[0x0f, 0xb7, 0xc0 | (dst & 7) << 3 | src & 7]);
    }
    /// `jmp [base + index * 2^scale + disp]`.
    pub fn jmp_mem(&mut self, base: u8, index: (u8, u8), disp: i32) {
        self.mem(false, 0xff, 4, base, Some(index), disp);
    }
    /// `jmp reg`.
    pub fn jmp_reg(&mut self, reg: u8) {
        self.rex(false, 0, 0, reg);
        self.bytes(&[0xff, 0xe0 | reg & 7]);
    }
    /// `push reg` on the host stack.
    pub fn push(&mut self, reg: u8) {
        self.rex(false, 0, 0, reg);
        self.buf.push(0x50 | reg & 7);
    }
    /// `pop reg` from the host stack.
    pub fn pop(&mut self, reg: u8) {
        self.rex(false, 0, 0, reg);
        self.buf.push(0x58 | reg & 7);
    }
    /// `jmp rel32`; returns the offset of the displacement.
    pub fn jmp(&mut self) -> usize {
        self.buf.push(0xe9);
        self.u32(0);
        self.len() - 4
    }
    /// `jmp rel8`; returns the offset of the displacement.
    pub fn jmp8(&mut self) -> usize {
        self.bytes(&[0xeb, 0]);
        self.len() - 1
    }
    /// `call rel32`; returns the offset of the displacement.
    pub fn call(&mut self) -> usize {
        self.buf.push(0xe8);
        self.u32(0);
        self.len() - 4
    }
    /// `jcc rel32`; returns the offset of the displacement.
    pub fn jcc(&mut self, cond: u8) -> usize {
        self.bytes(&[0x0f, 0x80 | cond]);
        self.u32(0);
        self.len() - 4
    }
    /// `jrcxz rel8` (or `jecxz`); returns the offset of the displacement.
    pub fn jrcxz(&mut self, ecx: bool) -> usize {
        if ecx {
            self.buf.push(0x67);
        }
        self.bytes(&[0xe3, 0]);
        self.len() - 1
    }
    /// Points an 8-bit displacement at the current end.
    pub fn land8(&mut self, at: usize) {
        let rel = self.len() - (at + 1);
        debug_assert!(rel < 128);
        self.buf[at] = rel as u8;
    }
    /// Points a 32-bit displacement at offset `target` of the same stream.
    pub fn link(&mut self, at: usize, target: usize) {
        let rel = (target as i64 - (at as i64 + 4)) as i32;
        self.buf[at..at + 4].copy_from_slice(&rel.to_le_bytes());
    }
    /// Points a 32-bit displacement at the current end.
    pub fn land(&mut self, at: usize) {
        self.link(at, self.len());
    }
    /// Sets a 32-bit displacement to a distance between absolute offsets:
    /// this stream starts at `base`, the target lies at `target`.
    pub fn link_abs(&mut self, at: usize, base: usize, target: usize) {
        let rel = (target as i64 - (base + at) as i64 - 4) as i32;
        self.buf[at..at + 4].copy_from_slice(&rel.to_le_bytes());
    }
}
