//! The guest that comes with Trapeze: a freestanding x86-64 program with a PVH
//! entry, built from `freestanding/` by this crate's build script.
//!
//! It shows what it sees of CPU, memory and interrupts, checks itself, echoes
//! its console and powers off through ACPI.

/// The program, an ELF64 file with an `XEN_ELFNOTE_PHYS32_ENTRY` note.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

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
