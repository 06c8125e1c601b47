//! The tables as QEMU gives them to firmware: a file with pointers relative
//! to its own start, and a script that says where files go, which pointers to
//! move and which checksums to renew (QEMU's bios-linker-loader).

use super::{RSDP, TABLES, Tables};

const TABLES_FILE: &str = "etc/acpi/tables";
const RSDP_FILE: &str = "etc/acpi/rsdp";
/// Bytes of a command and of a file name in it.
const COMMAND: usize = 128;
const NAME: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
/// Zones of memory.
const HIGH: u8 = 1;
const FSEG: u8 = 2;

/// Bytes of the RSDP: of version 1 and all; its pointer and checksums.
const RSDP_LEN: usize = 36;
const RSDP_V1_LEN: u32 = 20;
const RSDP_XSDT: u32 = 24;
const RSDP_CHECKSUM: u32 = 8;
const RSDP_EXTENDED_CHECKSUM: u32 = 32;
/// Of any table (5.2.6).
const HEADER: usize = 36;
const CHECKSUM: u32 = 9;
/// Pointers of the FADT: FACS and DSDT, 32 and 64 bits.
const FADT_POINTERS: [(usize, u8); 4] = [(36, 4), (40, 4), (132, 8), (140, 8)];

/// The script.
#[derive(Default)]
struct Script(Vec<u8>);

fn name(text: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

impl Script {
    fn command(&mut self, kind: u32, parts: &[&[u8]]) {
        let mut command = kind.to_le_bytes().to_vec();
        parts.iter().for_each(|p| command.extend(*p));
        command.resize(COMMAND, 0);
        self.0.extend(command);
    }
    fn allocate(&mut self, file: &str, align: u32, zone: u8) {
        self.command(ALLOCATE, &[&name(file), &align.to_le_bytes(), &[zone]]);
    }
    /// The pointer in `file` points into the tables.
    fn pointer(&mut self, file: &str, at: u32, size: u8) {
        let names = [name(file), name(TABLES_FILE)];
        self.command(
            ADD_POINTER,
            &[names.as_flattened(), &at.to_le_bytes(), &[size]],
        );
    }
    fn checksum(&mut self, file: &str, at: u32, start: u32, len: u32) {
        let words = [at, start, len].map(u32::to_le_bytes);
        self.command(ADD_CHECKSUM, &[&name(file), words.as_flattened()]);
    }
}

/// A little-endian field of 4 or 8 bytes.
fn field(bytes: &[u8], at: usize, size: u8) -> u64 {
    let mut word = [0; 8];
    let size = usize::from(size);
    word[..size].copy_from_slice(&bytes[at..at + size]);
    u64::from_le_bytes(word)
}

/// Makes the pointer at `at` relative and has it moved; nothing for 0.
fn relocate(blob: &mut [u8], script: &mut Script, at: usize, size: u8) -> Option<usize> {
    let target = field(blob, at, size).checked_sub(TABLES)?;
    let size_bytes = usize::from(size);
    blob[at..at + size_bytes].copy_from_slice(&target.to_le_bytes()[..size_bytes]);
    script.pointer(TABLES_FILE, at as u32, size);
    Some(target as usize)
}

impl Tables {
    /// RSDP, tables and script.
    pub fn for_firmware(&self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let mut rsdp = self.0[..RSDP_LEN].to_vec();
        let mut blob = self.0[(TABLES - RSDP) as usize..].to_vec();
        let mut script = Script::default();
        script.allocate(RSDP_FILE, 16, FSEG);
        script.allocate(TABLES_FILE, 64, HIGH);
        let xsdt = (field(&rsdp, RSDP_XSDT as usize, 8) - TABLES) as usize;
        let entries = (table_len(&blob, xsdt) - HEADER) / 8;
        for entry in 0..entries {
            let at = xsdt + HEADER + 8 * entry;
            let table = relocate(&mut blob, &mut script, at, 8);
            if let Some(fadt) = table.filter(|&t| blob[t..].starts_with(b"FACP")) {
                for (offset, size) in FADT_POINTERS {
                    relocate(&mut blob, &mut script, fadt + offset, size);
                }
                renew(&mut blob, &mut script, fadt);
            }
        }
        renew(&mut blob, &mut script, xsdt);
        rsdp[RSDP_XSDT as usize..][..8].copy_from_slice(&(xsdt as u64).to_le_bytes());
        script.pointer(RSDP_FILE, RSDP_XSDT, 8);
        for at in [RSDP_CHECKSUM, RSDP_EXTENDED_CHECKSUM] {
            rsdp[at as usize] = 0;
        }
        script.checksum(RSDP_FILE, RSDP_CHECKSUM, 0, RSDP_V1_LEN);
        script.checksum(RSDP_FILE, RSDP_EXTENDED_CHECKSUM, 0, RSDP_LEN as u32);
        (rsdp, blob, script.0)
    }
}

fn table_len(blob: &[u8], at: usize) -> usize {
    field(blob, at + 4, 4) as usize
}

/// Has a table's checksum renewed.
fn renew(blob: &mut [u8], script: &mut Script, at: usize) {
    let len = table_len(blob, at) as u32;
    blob[at + CHECKSUM as usize] = 0;
    script.checksum(TABLES_FILE, at as u32 + CHECKSUM, at as u32, len);
}

#[cfg(test)]
mod tests {
    use super::super::{Description, build};
    use super::*;
    use crate::cpu::Topology;

    /// Does what firmware does with the script; the tables at `base`.
    fn link(tables: &Tables, base: u64) -> (Vec<u8>, Vec<u8>) {
        let (mut rsdp, mut blob, script) = tables.for_firmware();
        for command in script.chunks(COMMAND) {
            let kind = field(command, 0, 4) as u32;
            let in_rsdp = command[4..].starts_with(RSDP_FILE.as_bytes());
            let file = if in_rsdp { &mut rsdp } else { &mut blob };
            match kind {
                ADD_POINTER => {
                    let at = field(command, 4 + 2 * NAME, 4) as usize;
                    let size = command[8 + 2 * NAME];
                    let value = field(file, at, size) + base;
                    let n = usize::from(size);
                    file[at..at + n].copy_from_slice(&value.to_le_bytes()[..n]);
                }
                ADD_CHECKSUM => {
                    let word = |i: usize| field(command, 4 + NAME + 4 * i, 4) as usize;
                    let (at, start, len) = (word(0), word(1), word(2));
                    let sum = file[start..start + len]
                        .iter()
                        .fold(0u8, |a, b| a.wrapping_add(*b));
                    file[at] = file[at].wrapping_sub(sum);
                }
                _ => assert_eq!(kind, ALLOCATE),
            }
        }
        (rsdp, blob)
    }

    #[test]
    fn linked_where_they_are_they_are_the_boards_own() {
        let description = Description {
            board: &crate::boards::PC,
            topology: Topology::of_cores(2),
            vcpus_change: true,
            absent: &[1],
            slots: &super::super::SlotTree::default(),
            serial: &[(0x3f8, 4)],
            low_end: 1 << 30,
            numa: &crate::numa::Numa::default(),
            node_ranges: &[],
            mmio: &[],
        };
        let tables = Tables(build(&description));
        let (rsdp, blob) = link(&tables, TABLES);
        assert_eq!(rsdp, tables.0[..RSDP_LEN]);
        assert!(blob == tables.0[(TABLES - RSDP) as usize..]);
    }
}
