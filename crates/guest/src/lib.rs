//! The guest that comes with Trapeze: a freestanding x86-64 program with a PVH
//! entry, built from `freestanding/` by this crate's build script.
//!
//! It shows what it sees of CPU, memory and interrupts, checks itself, echoes
//! its console and powers off through ACPI.

/// The program, an ELF64 file with an `XEN_ELFNOTE_PHYS32_ENTRY` note.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

/// A Multiboot kernel as a flat file whose header has the address fields: it
/// prints what it was told to port 0xe9 and writes 0x10 to port 0xf4.
pub const MULTIBOOT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/multiboot.bin"));

/// [`MULTIBOOT`] in an ELF32 file, whose segment is linked high and loaded
/// low, without the address fields.
pub fn multiboot_elf32() -> Vec<u8> {
    const HEADERS: usize = 52 + 32;
    const LINKED: u32 = 0xc010_0000;
    let field = |at: usize| {
        MULTIBOOT[at..at + 4]
            .try_into()
            .map_or(0, u32::from_le_bytes)
    };
    let (load, bss_end, entry) = (field(16), field(24), field(28));
    let flags = field(4) & 0xffff;
    let mut image = MULTIBOOT.to_vec();
    image[4..8].copy_from_slice(&flags.to_le_bytes());
    let sum = 0u32.wrapping_sub(field(0).wrapping_add(flags));
    image[8..12].copy_from_slice(&sum.to_le_bytes());
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    let half = |v: u16| v.to_le_bytes().to_vec();
    let word = |v: u32| v.to_le_bytes().to_vec();
    // ET_EXEC for EM_386; program headers follow.
    file.extend([half(2), half(3), word(1)].concat());
    file.extend([word(entry - load + LINKED), word(52), word(0), word(0)].concat());
    file.extend([52u16, 32, 1, 0, 0, 0].map(u16::to_le_bytes).as_flattened());
    let (size, memory) = (image.len() as u32, bss_end - load);
    for value in [1, HEADERS as u32, LINKED, load, size, memory, 7, 4096] {
        file.extend(word(value));
    }
    debug_assert_eq!(file.len(), HEADERS);
    file.extend(image);
    file
}

#[cfg(test)]
mod tests {
    use super::ELF;

    /// Little-endian word of `size` bytes at `at`.
    fn word(at: usize, size: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&ELF[at..at + size]);
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn it_is_a_static_elf64_for_x86_64() {
        assert_eq!(&ELF[..6], b"\x7fELF\x02\x01");
        assert_eq!(word(16, 2), 2, "ET_EXEC");
        assert_eq!(word(18, 2), 62, "EM_X86_64");
    }

    #[test]
    fn it_has_a_pvh_entry_note_inside_its_image() {
        let (offset, count) = (word(32, 8) as usize, word(56, 2) as usize);
        let headers: Vec<usize> = (0..count).map(|i| offset + 56 * i).collect();
        let note = headers.iter().find(|&&h| word(h, 4) == 4).expect("PT_NOTE");
        let note = word(note + 8, 8) as usize;
        assert_eq!(word(note + 8, 4), 18, "XEN_ELFNOTE_PHYS32_ENTRY");
        assert_eq!(&ELF[note + 12..note + 16], b"Xen\0");
        let entry = word(note + 16, 4);
        let inside = |&&h: &&usize| {
            let start = word(h + 24, 8);
            word(h, 4) == 1 && (start..start + word(h + 32, 8)).contains(&entry)
        };
        assert!(headers.iter().any(|h| inside(&h)), "{entry:#x}");
    }
}
