//! The registers a debugger sees, as one table: those of x86-64 in every mode, as
//! under QEMU. The crate `gdbstub_arch` has no bases of segments, no control
//! registers and no EFER, without which a kernel is hard to debug.

use gdbstub::arch::{Arch, RegId, Registers};
use hv::Vcpu;
use hv::abi::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs, kvm_xsave};
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::sync::LazyLock;

const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Places in an XSAVE image of the standard format (SDM vol 1, table 10-2 and
/// 13.4), in words of 4 bytes: MXCSR, XSTATE_BV, the upper halves of YMM, which all
/// processors have there.
const XSAVE_MXCSR: usize = 24 / 4;
const XSTATE_BV: usize = 512 / 4;
const XSAVE_AVX: usize = 576 / 4;
/// Bits of XSTATE_BV.
const SSE_STATE: u32 = 1 << 1;
const AVX_STATE: u32 = 1 << 2;

/// The upper halves of the YMM registers, as words of 4 bytes.
type Upper = [[u32; 4]; 16];

/// All registers of a vCPU that a debugger sees.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    mxcsr: u32,
    upper: Upper,
    kernel_gs_base: u64,
}

/// What the image has of them; without its bit they are zero.
fn upper_of(xsave: &kvm_xsave) -> Upper {
    let mut upper = Upper::default();
    if xsave.region[XSTATE_BV] & AVX_STATE != 0 {
        let words = xsave.region[XSAVE_AVX..].chunks_exact(4);
        let pairs = upper.iter_mut().zip(words);
        pairs.for_each(|(to, from)| to.copy_from_slice(from));
    }
    upper
}

impl Snapshot {
    pub(crate) fn of(cpu: &dyn Vcpu) -> hv::Result<Self> {
        let xsave = cpu.xsave()?;
        Ok(Self {
            regs: cpu.regs()?,
            sregs: cpu.sregs()?,
            fpu: cpu.fpu()?,
            mxcsr: xsave.region[XSAVE_MXCSR],
            upper: upper_of(&xsave),
            // A CPU model without long mode has none.
            kernel_gs_base: cpu.msr(KERNEL_GS_BASE).unwrap_or(0),
        })
    }

    /// Writes back what `self` has and `before` has not.
    pub(crate) fn store(&self, before: &Self, cpu: &mut dyn Vcpu) -> hv::Result<()> {
        if self.sregs != before.sregs {
            cpu.set_sregs(&self.sregs)?;
        }
        if self.regs != before.regs {
            cpu.set_regs(&self.regs)?;
        }
        if self.fpu != before.fpu {
            cpu.set_fpu(&self.fpu)?;
        }
        self.store_extended(before, cpu)?;
        if self.kernel_gs_base != before.kernel_gs_base {
            cpu.set_msr(KERNEL_GS_BASE, self.kernel_gs_base)?;
        }
        Ok(())
    }

    /// What without its bit in XSTATE_BV would be taken for its initial state.
    fn store_extended(&self, before: &Self, cpu: &mut dyn Vcpu) -> hv::Result<()> {
        let (sse, avx) = (self.mxcsr != before.mxcsr, self.upper != before.upper);
        if !sse && !avx {
            return Ok(());
        }
        let mut xsave = cpu.xsave()?;
        if sse {
            xsave.region[XSAVE_MXCSR] = self.mxcsr;
            xsave.region[XSTATE_BV] |= SSE_STATE;
        }
        if avx {
            let words = xsave.region[XSAVE_AVX..].chunks_exact_mut(4);
            let pairs = words.zip(&self.upper);
            pairs.for_each(|(to, from)| to.copy_from_slice(from));
            xsave.region[XSTATE_BV] |= AVX_STATE;
        }
        cpu.set_xsave(&xsave)
    }

    /// Its registers, one after the other as a debugger reads them.
    pub(crate) fn image(&self) -> Image {
        let mut bytes = Vec::with_capacity(*IMAGE_LEN);
        for row in TABLE.iter() {
            bytes.extend(&row.get(self).to_le_bytes()[..row.bytes()]);
        }
        Image(bytes)
    }

    /// Takes over all of them; false if there are more or fewer.
    pub(crate) fn set_image(&mut self, image: &Image) -> bool {
        let mut rest = &image.0[..];
        if rest.len() != *IMAGE_LEN {
            return false;
        }
        for row in TABLE.iter() {
            let (bytes, more) = rest.split_at(row.bytes());
            row.set(self, number(bytes));
            rest = more;
        }
        true
    }

    fn segment(&mut self, index: usize) -> &mut kvm_segment {
        let s = &mut self.sregs;
        match index {
            0 => &mut s.cs,
            1 => &mut s.ss,
            2 => &mut s.ds,
            3 => &mut s.es,
            4 => &mut s.fs,
            _ => &mut s.gs,
        }
    }
}

/// Where a register is.
#[derive(Clone, Copy)]
enum Place {
    /// Of [`kvm_regs`].
    Regs(fn(&mut kvm_regs) -> &mut u64),
    /// Of [`kvm_sregs`].
    Sregs(fn(&mut kvm_sregs) -> &mut u64),
    /// Selector, in the order of [`Snapshot::segment`].
    Segment(usize),
    /// ST(n).
    St(usize),
    /// The x87's control and status, in the debugger's order.
    X87(usize),
    /// XMMn.
    Xmm(usize),
    Mxcsr,
    /// The upper half of YMMn.
    Upper(usize),
    KernelGsBase,
}

/// One register.
struct Row {
    name: String,
    bits: usize,
    /// GDB's name of the type.
    kind: &'static str,
    /// GDB's group, where it is not plain.
    group: &'static str,
    /// Where the description says it is; see [`FEATURES`].
    feature: usize,
    place: Place,
}

/// GDB's names for sets of registers (its manual, "i386 Features"), and one of ours.
const FEATURES: [&str; 5] = [
    "org.gnu.gdb.i386.core",
    "org.gnu.gdb.i386.sse",
    "org.gnu.gdb.i386.avx",
    "org.gnu.gdb.i386.segments",
    "org.trapeze.system",
];
const CORE: usize = 0;
const SSE: usize = 1;
const AVX: usize = 2;
const SEGMENTS: usize = 3;
const SYSTEM: usize = 4;

/// In GDB's order, which the features prescribe.
static TABLE: LazyLock<Vec<Row>> = LazyLock::new(table);
static IMAGE_LEN: LazyLock<usize> = LazyLock::new(|| TABLE.iter().map(Row::bytes).sum());
static DESCRIPTION: LazyLock<String> = LazyLock::new(description);

type Field<T> = fn(&mut T) -> &mut u64;

const GENERAL: [(&str, &str, Field<kvm_regs>); 17] = [
    ("rax", "int64", |r| &mut r.rax),
    ("rbx", "int64", |r| &mut r.rbx),
    ("rcx", "int64", |r| &mut r.rcx),
    ("rdx", "int64", |r| &mut r.rdx),
    ("rsi", "int64", |r| &mut r.rsi),
    ("rdi", "int64", |r| &mut r.rdi),
    ("rbp", "data_ptr", |r| &mut r.rbp),
    ("rsp", "data_ptr", |r| &mut r.rsp),
    ("r8", "int64", |r| &mut r.r8),
    ("r9", "int64", |r| &mut r.r9),
    ("r10", "int64", |r| &mut r.r10),
    ("r11", "int64", |r| &mut r.r11),
    ("r12", "int64", |r| &mut r.r12),
    ("r13", "int64", |r| &mut r.r13),
    ("r14", "int64", |r| &mut r.r14),
    ("r15", "int64", |r| &mut r.r15),
    ("rip", "code_ptr", |r| &mut r.rip),
];
const SELECTORS: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];
const X87: [&str; 8] = [
    "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop",
];
const BASES: [(&str, Field<kvm_sregs>); 2] = [
    ("fs_base", |s| &mut s.fs.base),
    ("gs_base", |s| &mut s.gs.base),
];
const CONTROL: [(&str, &str, Field<kvm_sregs>); 6] = [
    ("cr0", "cr0_flags", |s| &mut s.cr0),
    ("cr2", "int64", |s| &mut s.cr2),
    ("cr3", "int64", |s| &mut s.cr3),
    ("cr4", "cr4_flags", |s| &mut s.cr4),
    ("cr8", "int64", |s| &mut s.cr8),
    ("efer", "efer_flags", |s| &mut s.efer),
];

fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |feature, name: &str, bits, kind, group, place| {
        rows.push(Row {
            name: name.into(),
            bits,
            kind,
            group,
            feature,
            place,
        });
    };
    for (name, kind, field) in GENERAL {
        add(CORE, name, 64, kind, "", Place::Regs(field));
    }
    let eflags = Place::Regs(|r| &mut r.rflags);
    add(CORE, "eflags", 32, "eflags_flags", "", eflags);
    for (i, name) in SELECTORS.into_iter().enumerate() {
        add(CORE, name, 32, "int32", "", Place::Segment(i));
    }
    for i in 0..8 {
        add(CORE, &format!("st{i}"), 80, "i387_ext", "", Place::St(i));
    }
    for (i, name) in X87.into_iter().enumerate() {
        add(CORE, name, 32, "int", "float", Place::X87(i));
    }
    for i in 0..16 {
        add(SSE, &format!("xmm{i}"), 128, "vec128", "", Place::Xmm(i));
    }
    add(SSE, "mxcsr", 32, "mxcsr_flags", "vector", Place::Mxcsr);
    for i in 0..16 {
        add(
            AVX,
            &format!("ymm{i}h"),
            128,
            "uint128",
            "",
            Place::Upper(i),
        );
    }
    for (name, field) in BASES {
        add(SEGMENTS, name, 64, "int64", "", Place::Sregs(field));
    }
    let system = "system";
    add(
        SYSTEM,
        "k_gs_base",
        64,
        "int64",
        system,
        Place::KernelGsBase,
    );
    for (name, kind, field) in CONTROL {
        add(SYSTEM, name, 64, kind, system, Place::Sregs(field));
    }
    rows
}

impl Row {
    fn bytes(&self) -> usize {
        self.bits / 8
    }

    fn get(&self, s: &Snapshot) -> u128 {
        let (mut regs, mut sregs) = (s.regs, s.sregs);
        match self.place {
            Place::Regs(field) => (*field(&mut regs)).into(),
            Place::Sregs(field) => (*field(&mut sregs)).into(),
            Place::Segment(i) => {
                let s = &s.sregs;
                [s.cs, s.ss, s.ds, s.es, s.fs, s.gs][i].selector.into()
            }
            Place::St(i) => number(&s.fpu.fpr[i][..10]),
            Place::X87(i) => x87(&s.fpu, i).into(),
            Place::Xmm(i) => u128::from_le_bytes(s.fpu.xmm[i]),
            Place::Mxcsr => s.mxcsr.into(),
            Place::Upper(i) => s.upper[i]
                .iter()
                .rev()
                .fold(0, |all, w| all << 32 | u128::from(*w)),
            Place::KernelGsBase => s.kernel_gs_base.into(),
        }
    }

    fn set(&self, s: &mut Snapshot, value: u128) {
        let low = value as u64;
        match self.place {
            Place::Regs(field) => *field(&mut s.regs) = low,
            Place::Sregs(field) => *field(&mut s.sregs) = low,
            Place::Segment(i) => {
                let real = s.sregs.cr0 & 1 == 0;
                let segment = s.segment(i);
                if real && segment.selector != low as u16 {
                    segment.base = (low & 0xffff) << 4;
                }
                segment.selector = low as u16;
            }
            Place::St(i) => s.fpu.fpr[i][..10].copy_from_slice(&value.to_le_bytes()[..10]),
            Place::X87(i) => set_x87(&mut s.fpu, i, low),
            Place::Xmm(i) => s.fpu.xmm[i] = value.to_le_bytes(),
            Place::Mxcsr => s.mxcsr = low as u32,
            Place::Upper(i) => s.upper[i] = [0, 32, 64, 96].map(|at| (value >> at) as u32),
            Place::KernelGsBase => s.kernel_gs_base = low,
        }
    }
}

/// A little-endian number of up to 16 bytes.
fn number(bytes: &[u8]) -> u128 {
    let mut all = [0; 16];
    let len = bytes.len().min(16);
    all[..len].copy_from_slice(&bytes[..len]);
    u128::from_le_bytes(all)
}

fn x87(fpu: &kvm_fpu, index: usize) -> u32 {
    match index {
        0 => fpu.fcw.into(),
        1 => fpu.fsw.into(),
        2 => full_tags(fpu).into(),
        // Selectors share their places with the upper halves of 64-bit addresses.
        3 => (fpu.last_ip >> 32) as u32 & 0xffff,
        4 => fpu.last_ip as u32,
        5 => (fpu.last_dp >> 32) as u32 & 0xffff,
        6 => fpu.last_dp as u32,
        _ => fpu.last_opcode.into(),
    }
}

fn set_x87(fpu: &mut kvm_fpu, index: usize, value: u64) {
    if u64::from(x87(fpu, index)) == value {
        return;
    }
    let halves = |low: u64, high: u64| low & 0xffff_ffff | (high & 0xffff) << 32;
    match index {
        0 => fpu.fcw = value as u16,
        1 => fpu.fsw = value as u16,
        2 => {
            let full = |i: usize| value >> (2 * i) & 3 != 3;
            fpu.ftwx = (0..8).map(|i| u8::from(full(i)) << i).sum();
        }
        3 => fpu.last_ip = halves(fpu.last_ip, value),
        4 => fpu.last_ip = halves(value, fpu.last_ip >> 32),
        5 => fpu.last_dp = halves(fpu.last_dp, value),
        6 => fpu.last_dp = halves(value, fpu.last_dp >> 32),
        _ => fpu.last_opcode = value as u16,
    }
}

/// The tag word of FNSTENV from that of FXSAVE, which only says which registers
/// are empty (SDM vol 1, 8.1.7 and 10.5.1.1).
fn full_tags(fpu: &kvm_fpu) -> u16 {
    let top = usize::from(fpu.fsw >> 11 & 7);
    let tag = |physical: usize| {
        if fpu.ftwx >> physical & 1 == 0 {
            return 3;
        }
        let bits = number(&fpu.fpr[(physical + 8 - top) % 8][..10]);
        let (exponent, fraction) = ((bits >> 64) as u16 & 0x7fff, bits as u64);
        match (exponent, fraction) {
            (0, 0) => 1,
            (0 | 0x7fff, _) => 2,
            _ if fraction >> 63 == 0 => 2,
            _ => 0,
        }
    };
    (0..8).fold(0, |word, i| word | tag(i) << (2 * i))
}

/// Names of bits, for the debugger to show.
type Flags = (&'static str, usize, &'static [(u32, &'static str)]);
const FLAGS: [Flags; 5] = [
    (
        "eflags_flags",
        4,
        &[
            (0, "CF"),
            (1, ""),
            (2, "PF"),
            (4, "AF"),
            (6, "ZF"),
            (7, "SF"),
            (8, "TF"),
            (9, "IF"),
            (10, "DF"),
            (11, "OF"),
            (14, "NT"),
            (16, "RF"),
            (17, "VM"),
            (18, "AC"),
            (19, "VIF"),
            (20, "VIP"),
            (21, "ID"),
        ],
    ),
    (
        "mxcsr_flags",
        4,
        &[
            (0, "IE"),
            (1, "DE"),
            (2, "ZE"),
            (3, "OE"),
            (4, "UE"),
            (5, "PE"),
            (6, "DAZ"),
            (7, "IM"),
            (8, "DM"),
            (9, "ZM"),
            (10, "OM"),
            (11, "UM"),
            (12, "PM"),
            (15, "FZ"),
        ],
    ),
    (
        "cr0_flags",
        8,
        &[
            (0, "PE"),
            (1, "MP"),
            (2, "EM"),
            (3, "TS"),
            (4, "ET"),
            (5, "NE"),
            (16, "WP"),
            (18, "AM"),
            (29, "NW"),
            (30, "CD"),
            (31, "PG"),
        ],
    ),
    (
        "cr4_flags",
        8,
        &[
            (0, "VME"),
            (1, "PVI"),
            (2, "TSD"),
            (3, "DE"),
            (4, "PSE"),
            (5, "PAE"),
            (6, "MCE"),
            (7, "PGE"),
            (8, "PCE"),
            (9, "OSFXSR"),
            (10, "OSXMMEXCPT"),
            (11, "UMIP"),
            (12, "LA57"),
            (13, "VMXE"),
            (14, "SMXE"),
            (16, "FSGSBASE"),
            (17, "PCIDE"),
            (18, "OSXSAVE"),
            (20, "SMEP"),
            (21, "SMAP"),
            (22, "PKE"),
            (23, "CET"),
            (24, "PKS"),
        ],
    ),
    (
        "efer_flags",
        8,
        &[
            (0, "SCE"),
            (8, "LME"),
            (10, "LMA"),
            (11, "NXE"),
            (12, "SVME"),
            (14, "FFXSR"),
        ],
    ),
];

/// The ways to look at a vector register.
const VECTORS: &str = "<vector id=\"v8i8\" type=\"int8\" count=\"16\"/>\
    <vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\
    <vector id=\"v4i32\" type=\"int32\" count=\"4\"/>\
    <vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\
    <vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>\
    <vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
    <union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>\
    <field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v8i8\"/>\
    <field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>\
    <field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>";

/// The target description (GDB's manual, "Target Description Format").
fn description() -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">\
         <target><architecture>i386:x86-64</architecture>",
    );
    for (i, feature) in FEATURES.iter().enumerate() {
        let _ = write!(xml, "<feature name=\"{feature}\">");
        if i == SSE {
            xml += VECTORS;
        }
        let rows = || TABLE.iter().filter(|row| row.feature == i);
        for (id, size, bits) in FLAGS {
            if !rows().any(|row| row.kind == id) {
                continue;
            }
            let _ = write!(xml, "<flags id=\"{id}\" size=\"{size}\">");
            for (bit, name) in bits {
                let _ = write!(
                    xml,
                    "<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>"
                );
            }
            xml += "</flags>";
        }
        for row in rows() {
            let (name, bits, kind) = (&row.name, row.bits, row.kind);
            let _ = write!(
                xml,
                "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\""
            );
            if !row.group.is_empty() {
                let _ = write!(xml, " group=\"{}\"", row.group);
            }
            xml += "/>";
        }
        xml += "</feature>";
    }
    xml + "</target>"
}

/// All registers as `g` sends them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image(Vec<u8>);

impl Registers for Image {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        let bytes = self.0.get(16 * 8..17 * 8).unwrap_or_default();
        number(bytes) as u64
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.0.iter().for_each(|byte| write_byte(Some(*byte)));
    }

    /// Whether there are as many as there should be is seen when they are
    /// written: an error here would be the connection's end.
    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

/// A register by its number in the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(usize);

impl Number {
    pub(crate) fn get(self, s: &Snapshot) -> Vec<u8> {
        let row = &TABLE[self.0];
        row.get(s).to_le_bytes()[..row.bytes()].to_vec()
    }

    /// False if it has another size.
    pub(crate) fn set(self, s: &mut Snapshot, bytes: &[u8]) -> bool {
        let row = &TABLE[self.0];
        let fits = bytes.len() == row.bytes();
        if fits {
            row.set(s, number(bytes));
        }
        fits
    }
}

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let row = TABLE.get(id)?;
        Some((Self(id), NonZeroUsize::new(row.bytes())))
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// x86-64 as the debugger is told.
pub(crate) enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = Image;
    type BreakpointKind = usize;
    type RegId = Number;

    fn target_description_xml() -> Option<&'static str> {
        Some(&DESCRIPTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_keeps_what_is_written() {
        for (i, row) in TABLE.iter().enumerate() {
            let mut s = Snapshot::default();
            // Tags follow from the registers' values.
            let value: u128 = match &*row.name {
                "ftag" => 0xfffd,
                _ => 0x1234_5678_9abc_def0_1122_3344_5566_7788 & ((1 << 16) - 1),
            };
            let bytes = value.to_le_bytes();
            assert!(Number(i).set(&mut s, &bytes[..row.bytes()]), "{}", row.name);
            assert_eq!(row.get(&s), value, "{}", row.name);
            let mut again = Snapshot::default();
            assert!(again.set_image(&s.image()));
            assert_eq!(again.image(), s.image(), "{}", row.name);
            assert!(!Number(i).set(&mut s, &bytes[..1]), "{}", row.name);
        }
    }

    #[test]
    fn the_order_is_gdb_s() {
        let place = |name: &str| TABLE.iter().position(|row| row.name == name);
        // GDB's amd64 numbers (its manual says "in this order").
        for (name, at) in [
            ("rip", 16),
            ("gs", 23),
            ("st0", 24),
            ("fop", 39),
            ("xmm0", 40),
        ] {
            assert_eq!(place(name), Some(at), "{name}");
        }
        let mut image = Image::default();
        for (len, fits) in [(*IMAGE_LEN, true), (3, false), (*IMAGE_LEN + 1, false)] {
            assert!(image.gdb_deserialize(&vec![0; len]).is_ok());
            assert_eq!(Snapshot::default().set_image(&image), fits, "{len}");
        }
    }

    #[test]
    fn tags_say_what_is_in_the_registers() {
        let mut fpu = kvm_fpu {
            fsw: 6 << 11,
            ftwx: 0b1100_0000,
            ..Default::default()
        };
        // ST(0) = 1.0, in physical register 6; ST(1) is zero.
        fpu.fpr[0][..10].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
        assert_eq!(full_tags(&fpu), 0x4fff);
        set_x87(&mut fpu, 2, 0xffff);
        assert_eq!(fpu.ftwx, 0);
    }
}
