//! Gathers, scatters and masked moves: every element is an access of its own
//! and masked-off elements are not accessed at all (SDM vol 2, VPGATHERDD,
//! VPSCATTERDD, VMASKMOV, MASKMOVDQU).

use super::vector;
use crate::env::{Access, Env, Stop};
use crate::operand::{Ctx, Handled, get_reg, mask, seg_of, sext};
use iced_x86::{Code, Instruction, Mnemonic as M, Register};
use x86::{Exception, Seg};

/// Bytes of an index and of a data element of a gather or scatter.
fn element_sizes(m: M) -> Option<(usize, usize)> {
    Some(match m {
        M::Vpgatherdd | M::Vgatherdps | M::Vpscatterdd | M::Vscatterdps => (4, 4),
        M::Vpgatherdq | M::Vgatherdpd | M::Vpscatterdq | M::Vscatterdpd => (4, 8),
        M::Vpgatherqd | M::Vgatherqps | M::Vpscatterqd | M::Vscatterqps => (8, 4),
        M::Vpgatherqq | M::Vgatherqpd | M::Vpscatterqq | M::Vscatterqpd => (8, 8),
        _ => return None,
    })
}

/// Is `insn` executed element by element here?
pub(super) fn is_sparse(insn: &Instruction) -> bool {
    use M::*;
    element_sizes(insn.mnemonic()).is_some()
        || matches!(
            insn.mnemonic(),
            Maskmovq | Maskmovdqu | Vmaskmovdqu | Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq
        )
}

/// Element `i` of `size` bytes, zero-extended.
fn element(v: &[u8; 64], i: usize, size: usize) -> u64 {
    let mut b = [0; 8];
    let at = (i * size).min(64 - size);
    b[..size].copy_from_slice(&v[at..at + size]);
    u64::from_le_bytes(b)
}

fn put_element(v: &mut [u8; 64], i: usize, size: usize, x: u64) {
    let at = (i * size).min(64 - size);
    v[at..at + size].copy_from_slice(&x.to_le_bytes()[..size]);
}

/// Linear parts of a vector-indexed address.
struct Vsib {
    seg: Seg,
    base: u64,
    scale: u64,
    addr_mask: u64,
    index: [u8; 64],
    index_size: usize,
    data: usize,
    count: usize,
    /// Vector length: bytes of the longer of index and data.
    len: usize,
}

impl Vsib {
    fn new<E: Env>(ctx: &Ctx<E>, data_reg: Register) -> Option<Self> {
        let insn = ctx.insn;
        let (index_size, data) = element_sizes(insn.mnemonic())?;
        let (index_n, index_len) = vector::vector_of(insn.memory_index());
        let (_, data_len) = vector::vector_of(data_reg);
        let mut base = insn.memory_displacement64();
        if insn.memory_base() != Register::None {
            base = base.wrapping_add(get_reg(ctx.cpu, insn.memory_base()));
        }
        Some(Self {
            seg: seg_of(insn.memory_segment()),
            base,
            scale: u64::from(insn.memory_index_scale()),
            addr_mask: mask(ctx.address_size()),
            index: vector::read(ctx.cpu, index_n),
            index_size,
            data,
            count: (index_len / index_size).min(data_len / data),
            len: index_len.max(data_len),
        })
    }
    fn offset(&self, i: usize) -> u64 {
        let index = sext(
            element(&self.index, i, self.index_size),
            self.index_size as u32,
        );
        self.base.wrapping_add(index.wrapping_mul(self.scale)) & self.addr_mask
    }
}

/// VEX (mask in a vector) and EVEX (mask in an opmask register) gathers. A
/// fault commits the elements before it.
fn gather<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let insn = ctx.insn;
    let dest = insn.op0_register();
    let Some(v) = Vsib::new(ctx, dest) else {
        return Err(Exception::UD.into());
    };
    let opmask = insn.op_mask();
    let mask_reg = insn.op_register(2);
    let evex = opmask != Register::None;
    let (dest_n, _) = vector::vector_of(dest);
    let (mask_n, _) = vector::vector_of(mask_reg);
    let mut out = vector::read(ctx.cpu, dest_n);
    let mut vmask = vector::read(ctx.cpu, mask_n);
    let mut kmask = vector::opmask(ctx.cpu, opmask);
    let mut stop = None;
    let mut progress = false;
    let sign = v.data as u32 * 8 - 1;
    // The vector mask is widened to whole elements first, fault or not.
    for i in 0..v.len / v.data {
        let on = element(&vmask, i, v.data) >> sign != 0;
        put_element(&mut vmask, i, v.data, if on { u64::MAX } else { 0 });
    }
    vmask[v.len.min(64)..].fill(0);
    for i in 0..v.count {
        let on = if evex {
            kmask >> i & 1 != 0
        } else {
            element(&vmask, i, v.data) >> sign != 0
        };
        if on {
            match ctx.read_mem(v.seg, v.offset(i), v.data as u32) {
                Ok(x) => {
                    put_element(&mut out, i, v.data, x);
                    progress = true;
                }
                Err(Stop::Fault(e)) => {
                    stop = Some(e);
                    break;
                }
                Err(other) => return Err(other),
            }
        }
        put_element(&mut vmask, i, v.data, 0);
        kmask &= !(1 << i);
    }
    let keep = match (stop, progress) {
        (None, _) => v.count * v.data,
        (Some(_), true) => v.len,
        (Some(_), false) => 64,
    };
    out[keep.min(64)..].fill(0);
    vector::write(ctx.cpu, dest_n, &out);
    if evex {
        let k = if stop.is_none() { 0 } else { kmask };
        vector::set_opmask(ctx.cpu, opmask, k);
    } else {
        if stop.is_none() {
            vmask = [0; 64];
        }
        vector::write(ctx.cpu, mask_n, &vmask);
    }
    stop.map_or(Ok(Handled::Next), |e| Err(e.into()))
}

/// Scatters, lowest element first; a fault leaves the mask of what remains.
fn scatter<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let src = ctx.insn.op1_register();
    let Some(v) = Vsib::new(ctx, src) else {
        return Err(Exception::UD.into());
    };
    let data = vector::read(ctx.cpu, vector::vector_of(src).0);
    let opmask = ctx.insn.op_mask();
    let mut k = vector::opmask(ctx.cpu, opmask);
    for i in 0..v.count {
        if k >> i & 1 == 0 {
            continue;
        }
        let x = element(&data, i, v.data);
        match ctx.write_mem(v.seg, v.offset(i), v.data as u32, x) {
            Ok(()) => k &= !(1 << i),
            Err(Stop::Fault(e)) => {
                vector::set_opmask(ctx.cpu, opmask, k);
                return Err(e.into());
            }
            Err(other) => return Err(other),
        }
    }
    vector::set_opmask(ctx.cpu, opmask, 0);
    Ok(Handled::Next)
}

/// Bytes of a VMASKMOV element.
fn lane(m: M) -> usize {
    match m {
        M::Vmaskmovps | M::Vpmaskmovd => 4,
        _ => 8,
    }
}

/// Writes an element, or with `store` false checks that it can be written:
/// masked stores write all their elements or none.
fn store_element<E: Env>(
    ctx: &mut Ctx<E>,
    store: bool,
    seg: Seg,
    at: u64,
    size: usize,
    x: u64,
) -> Result<(), Stop> {
    if store {
        return ctx.write_mem(seg, at, size as u32, x);
    }
    let la = ctx.linear(seg, at, size as u32, Access::Write)?;
    ctx.env.probe(ctx.cpu, la, size as u32, Access::Write)
}

/// VMASKMOVPS/PD and VPMASKMOVD/Q. The mask is the sign of each element of
/// operand 1; loads zero the rest, stores skip it.
fn vmaskmov<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = lane(ctx.insn.mnemonic());
    let store = ctx.is_mem(0);
    let (seg, off) = ctx.ea(if store { 0 } else { 2 });
    let other = ctx.insn.op_register(if store { 2 } else { 0 });
    let (n, len) = vector::vector_of(other);
    let masks = vector::read(ctx.cpu, vector::vector_of(ctx.insn.op_register(1)).0);
    let data = vector::read(ctx.cpu, n);
    let mut out = [0; 64];
    let wrap = mask(ctx.address_size());
    let on = |i: &usize| element(&masks, *i, size) >> (size * 8 - 1) != 0;
    let at = |i: usize| off.wrapping_add((i * size) as u64) & wrap;
    for i in (0..len / size).filter(on) {
        if store {
            store_element(ctx, false, seg, at(i), size, 0)?;
        } else {
            let x = ctx.read_mem(seg, at(i), size as u32)?;
            put_element(&mut out, i, size, x);
        }
    }
    if store {
        for i in (0..len / size).filter(on) {
            store_element(ctx, true, seg, at(i), size, element(&data, i, size))?;
        }
    }
    if !store {
        vector::write(ctx.cpu, n, &out);
    }
    Ok(Handled::Next)
}

/// MASKMOVQ, MASKMOVDQU and VMASKMOVDQU: bytes whose mask byte has its top bit
/// set go to DS:rDI.
fn maskmov_bytes<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let insn = ctx.insn;
    let (data, masks, len) = if insn.code() == Code::Maskmovq_rDI_mm_mm {
        // Executed on scratch memory for what every MMX instruction does to
        // the x87 state: #MF if an exception is pending, then top of stack 0
        // and all tags valid (SDM vol 1, 9.5.1).
        ctx.env.native(ctx.cpu, insn, &mut [0; 8])?;
        let get = |r| {
            let mut v = [0; 64];
            v[..8].copy_from_slice(&vector::mmx(ctx.cpu, r).to_le_bytes());
            v
        };
        (get(insn.op1_register()), get(insn.op2_register()), 8)
    } else {
        let get = |r| vector::read(ctx.cpu, vector::vector_of(r).0);
        (get(insn.op1_register()), get(insn.op2_register()), 16)
    };
    let (seg, off) = ctx.ea(0);
    let wrap = mask(super::string::address_bytes(insn.op_kind(0)));
    for store in [false, true] {
        for i in (0..len).filter(|&i| masks[i] & 0x80 != 0) {
            let at = off.wrapping_add(i as u64) & wrap;
            store_element(ctx, store, seg, at, 1, u64::from(data[i]))?;
        }
    }
    Ok(Handled::Next)
}

/// Every element-wise memory instruction; state checks are done.
pub(super) fn run<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    use M::*;
    match ctx.insn.mnemonic() {
        Maskmovq | Maskmovdqu | Vmaskmovdqu => maskmov_bytes(ctx),
        Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq => vmaskmov(ctx),
        _ if ctx.is_mem(0) => scatter(ctx),
        _ => gather(ctx),
    }
}
