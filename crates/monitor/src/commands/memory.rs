//! Memory: shown, disassembled and saved.

use super::paging;
use crate::command::*;
use crate::target::Target;
use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};

pub static COMMANDS: &[Command] = &[
    people(
        &["x"],
        "show memory by guest-virtual address; /FMT is COUNT, o|d|u|x|c|i, and b|h|w|g",
        |context, arguments| show(context, arguments, Space::Virtual),
    )
    .takes(SHOW),
    people(
        &["xp"],
        "show memory by guest-physical address",
        |context, arguments| show(context, arguments, Space::Physical),
    )
    .takes(SHOW),
    people(
        &["p", "print"],
        "show the value of an expression",
        |_, arguments| {
            let format = Format::parse(text_of(arguments, "format"))?;
            let value = need_number(arguments, "value")?;
            Ok(format.value(value).trim().into())
        },
    )
    .takes(&[
        need("format", Kind::Format).optional(),
        need("value", Kind::Number),
    ]),
    both(
        "memsave",
        &["memsave"],
        "write memory by guest-virtual address into a file",
        |context, arguments| save(context, arguments, Space::Virtual),
    )
    .takes(&[
        need("val", Kind::Number),
        need("size", Kind::Number),
        need("filename", Kind::Text),
        need("cpu-index", Kind::Number).optional().of(Of::Qmp),
    ]),
    both(
        "pmemsave",
        &["pmemsave"],
        "write memory by guest-physical address into a file",
        |context, arguments| save(context, arguments, Space::Physical),
    )
    .takes(&[
        need("val", Kind::Number),
        need("size", Kind::Number),
        need("filename", Kind::Text),
    ]),
    people(
        &["info mtree"],
        "what is where in guest-physical memory",
        |context, _| Ok(mtree(context.target).into()),
    ),
    people(
        &["info mem"],
        "what is mapped, by guest-virtual address",
        |context, _| Ok(paging::ranges(context.target, context.vcpu)?.into()),
    ),
    people(&["info tlb"], "the page tables' entries", |context, _| {
        Ok(paging::entries(context.target, context.vcpu)?.into())
    }),
];

const SHOW: &[Argument] = &[
    need("format", Kind::Format).optional(),
    need("address", Kind::Number),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Virtual,
    Physical,
}

/// How memory is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    count: usize,
    letter: char,
    /// Bytes of an item.
    size: usize,
}

/// Items shown at most.
const MOST: usize = 1 << 16;

impl Format {
    fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let text = text.unwrap_or_default();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let count = match &text[..digits] {
            "" => 1,
            digits => digits
                .parse()
                .ok()
                .filter(|n| (1..=MOST).contains(n))
                .ok_or_else(|| Failure::from(format!("/{text}: shows 1 to {MOST} items")))?,
        };
        let mut format = Self {
            count,
            letter: 'x',
            size: 4,
        };
        for letter in text[digits..].chars() {
            match letter {
                'o' | 'd' | 'u' | 'x' | 'c' | 'i' => format.letter = letter,
                'b' => format.size = 1,
                'h' => format.size = 2,
                'w' => format.size = 4,
                'g' => format.size = 8,
                other => {
                    let list = "o, d, u, x, c, i and the sizes b, h, w, g";
                    return Err(
                        format!("/{text}: there is no format '{other}'; there are {list}").into(),
                    );
                }
            }
        }
        if format.letter == 'c' {
            format.size = 1;
        }
        Ok(format)
    }

    fn value(self, value: u64) -> String {
        let digits = self.size * 2;
        let bits = 64 - 8 * self.size as u32;
        match self.letter {
            'o' => format!(" {value:#o}"),
            'd' => format!(" {}", (value << bits) as i64 >> bits),
            'u' => format!(" {value}"),
            'c' => format!(" '{}'", (value as u8).escape_ascii()),
            _ => format!(" 0x{value:0digits$x}"),
        }
    }
}

fn show(context: &mut Context<'_>, arguments: &Arguments, space: Space) -> Answer {
    let format = Format::parse(text_of(arguments, "format"))?;
    let address = need_number(arguments, "address")?;
    let (target, vcpu) = (context.target, context.vcpu);
    if format.letter == 'i' {
        return Ok(disassemble(target, vcpu, space, address, format.count)?.into());
    }
    let mut text = String::new();
    let per_line = 16 / format.size;
    let mut bytes = vec![0; format.size];
    for item in 0..format.count {
        let at = address.wrapping_add((item * format.size) as u64);
        if item % per_line == 0 {
            let end = if item == 0 { "" } else { "\n" };
            let _ = write!(text, "{end}{at:016x}:");
        }
        match read(target, vcpu, space, at, &mut bytes) {
            Ok(()) => {
                let mut whole = [0; 8];
                whole[..format.size].copy_from_slice(&bytes);
                text += &format.value(u64::from_le_bytes(whole));
            }
            // What was shown so far is worth showing.
            Err(failure) => return Ok(format!("{text} {}\n", failure.text).into()),
        }
    }
    Ok((text + "\n").into())
}

/// Longest instruction.
const LONGEST: usize = 15;

fn disassemble(
    target: &Target,
    vcpu: u32,
    space: Space,
    mut address: u64,
    count: usize,
) -> Result<String, Failure> {
    let bits = target.machine.on_vcpu(vcpu, |vcpu| {
        let sregs = vcpu.sregs()?;
        let long = sregs.efer & x86::efer::LMA != 0 && sregs.cs.l != 0;
        Ok::<_, hv::Error>(if long { 64 } else { 16 << sregs.cs.db })
    })??;
    let mut formatter = NasmFormatter::new();
    let mut text = String::new();
    for _ in 0..count {
        let mut bytes = Vec::with_capacity(LONGEST);
        for offset in 0..LONGEST as u64 {
            let mut byte = [0];
            match read(target, vcpu, space, address.wrapping_add(offset), &mut byte) {
                Ok(()) => bytes.push(byte[0]),
                Err(failure) if bytes.is_empty() => {
                    let _ = writeln!(text, "0x{address:08x}: {}", failure.text);
                    return Ok(text);
                }
                Err(_) => break,
            }
        }
        let mut decoder = Decoder::with_ip(bits, &bytes, address, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let len = instruction.len().max(1);
        let hex: String = bytes[..len.min(bytes.len())]
            .iter()
            .map(|b| format!("{b:02x} "))
            .collect();
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        let _ = writeln!(text, "0x{address:08x}:  {hex:<31}{line}");
        address = address.wrapping_add(len as u64);
    }
    Ok(text)
}

const PAGE: u64 = 4096;

/// Reads memory; a range in several virtual pages is read page by page.
fn read(
    target: &Target,
    vcpu: u32,
    space: Space,
    address: u64,
    bytes: &mut [u8],
) -> Result<(), Failure> {
    let mut at = address;
    let mut rest = bytes;
    while !rest.is_empty() {
        let in_page = (PAGE - at % PAGE).min(rest.len() as u64) as usize;
        let (now, later) = rest.split_at_mut(in_page);
        let gpa = match space {
            Space::Physical => at,
            Space::Virtual => translate(target, vcpu, at)?,
        };
        target.machine.read_memory(gpa, now)?;
        at = at.wrapping_add(in_page as u64);
        rest = later;
    }
    Ok(())
}

fn translate(target: &Target, vcpu: u32, gva: u64) -> Result<u64, Failure> {
    let gpa = target
        .machine
        .on_vcpu(vcpu, move |vcpu| vcpu.translate(gva))??;
    gpa.ok_or_else(|| format!("Cannot access memory at address {gva:#x}").into())
}

/// Pieces in which memory is saved.
const PIECE: u64 = 64 << 10;

fn save(context: &mut Context<'_>, arguments: &Arguments, space: Space) -> Answer {
    let (start, size) = (
        need_number(arguments, "val")?,
        need_number(arguments, "size")?,
    );
    let name = need_text(arguments, "filename")?;
    let vcpu = number_of(arguments, "cpu-index").map_or(Ok(context.vcpu), u32::try_from)?;
    if start.checked_add(size).is_none() {
        return Err("the range goes beyond the end of memory".into());
    }
    // Nothing is written if the first byte is not there.
    read(
        context.target,
        vcpu,
        space,
        start,
        &mut [0; 1][..usize::from(size > 0)],
    )?;
    let file = File::create(name).map_err(|error| format!("'{name}': {error}"))?;
    let mut file = BufWriter::new(file);
    let mut at = start;
    while at < start + size {
        let len = PIECE.min(start + size - at) as usize;
        let mut bytes = vec![0; len];
        read(context.target, vcpu, space, at, &mut bytes)?;
        file.write_all(&bytes)
            .map_err(|error| format!("'{name}': {error}"))?;
        at += len as u64;
    }
    file.flush().map_err(|error| format!("'{name}': {error}"))?;
    done()
}

fn mtree(target: &Target) -> String {
    let mut text = String::from("address-space: memory\n");
    let mut line = |first: u64, len: u64, name: &str| {
        let _ = writeln!(text, "  {first:016x}-{:016x}: {name}", first + len - 1);
    };
    for range in target.machine.ram_ranges() {
        line(range.gpa, range.size, "ram");
    }
    line(machine::layout::IOAPIC.into(), 0x1000, "ioapic");
    line(machine::layout::LAPIC.into(), 0x1000, "apic-msi");
    let mut ports = String::from("address-space: I/O\n");
    for window in super::pci::windows(target) {
        let name = format!(
            "{:02x}:{:02x}.{} BAR{}",
            window.bus, window.slot, window.function, window.bar
        );
        match window.io {
            false => line(window.first, window.len, &name),
            true => {
                let last = window.first + window.len - 1;
                let _ = writeln!(ports, "  {:016x}-{last:016x}: {name}", window.first);
            }
        }
    }
    text + &ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let parse = |text| Format::parse(Some(text)).map(|f| (f.count, f.letter, f.size));
        assert_eq!(parse("4xg").ok(), Some((4, 'x', 8)));
        assert_eq!(parse("i").ok(), Some((1, 'i', 4)));
        assert_eq!(parse("3c").ok(), Some((3, 'c', 1)));
        for wrong in ["0x", "99999999x", "4z"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let format = Format::parse(Some("db")).ok().unwrap();
        assert_eq!(format.value(0xff), " -1");
        assert_eq!(Format::parse(None).ok().unwrap().value(0x1f), " 0x0000001f");
    }
}
