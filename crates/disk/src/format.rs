//! Image formats and how to tell them apart.

/// Bytes that probing looks at.
pub const PROBE_LEN: usize = 512;

/// A format we read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The bytes themselves.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Raw, Self::Qcow2];

    /// QEMU's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The format of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// What the first bytes of a file look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// A format we have.
    Known(Format),
    /// A format that we recognize only, by name. Treating it as raw would
    /// destroy it.
    Foreign(&'static str),
}

/// (name, offset, magic bytes there).
const FOREIGN: [(&str, usize, &[u8]); 13] = [
    ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
    ("qed", 0, b"QED\0"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
];

/// Guesses the format from a file's first bytes. Everything that has no magic
/// bytes of another format is raw.
pub fn probe(head: &[u8]) -> Probed {
    let has = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|h| h.starts_with(magic));
    // Versions 2, 3 and what may come.
    if has(0, b"QFI\xfb") && head.get(4..8).is_some_and(|v| v >= &[0, 0, 0, 2]) {
        return Probed::Known(Format::Qcow2);
    }
    match FOREIGN.iter().find(|(_, at, magic)| has(*at, magic)) {
        Some((name, ..)) => Probed::Foreign(name),
        None => Probed::Known(Format::Raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_bytes_are_recognized() {
        let qcow = |version: u8| probe(&[b'Q', b'F', b'I', 0xfb, 0, 0, 0, version, 0]);
        assert_eq!(qcow(1), Probed::Foreign("qcow"));
        assert_eq!(qcow(2), Probed::Known(Format::Qcow2));
        assert_eq!(qcow(3), Probed::Known(Format::Qcow2));
        assert_eq!(probe(b"QFI"), Probed::Known(Format::Raw));
        assert_eq!(probe(&[]), Probed::Known(Format::Raw));
        let mut vdi = [0u8; PROBE_LEN];
        vdi[0x40..0x44].copy_from_slice(&0xbeda_107fu32.to_le_bytes());
        assert_eq!(probe(&vdi), Probed::Foreign("vdi"));
    }
}
