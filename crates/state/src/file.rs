//! The file: a magic line, the format's version, the length of the sections,
//! the sections as JSON, the number of pages, and for each page its address
//! and its bytes. Numbers are little-endian.

use crate::image::Section;
use crate::{Error, Image, PAGE, Result};
use std::collections::BTreeMap;
use std::io::Write;

const MAGIC: &[u8] = b"trapeze saved state\n";
/// The present format.
pub(crate) const FORMAT: u32 = 1;

/// Writes an image.
///
/// # Errors
/// Those of the writer.
pub fn encode(image: &Image, mut to: impl Write) -> std::io::Result<()> {
    let sections = serde_json::to_vec(&image.sections)?;
    to.write_all(MAGIC)?;
    to.write_all(&FORMAT.to_le_bytes())?;
    to.write_all(&(sections.len() as u64).to_le_bytes())?;
    to.write_all(&sections)?;
    to.write_all(&(image.memory.len() as u64).to_le_bytes())?;
    for (gpa, page) in image.memory.pages() {
        to.write_all(&gpa.to_le_bytes())?;
        to.write_all(&page[..])?;
    }
    Ok(())
}

/// What is left of the input.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let (head, tail) = self
            .0
            .split_at_checked(len)
            .ok_or_else(|| Error::Damaged("it ends early".into()))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N]> {
        let bytes = self.take(N as u64)?;
        bytes
            .try_into()
            .map_err(|_| Error::Damaged("it ends early".into()))
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(|b| u64::from_le_bytes(*b))
    }
}

/// Reads an image. Allocates no more than a few times the input's size.
///
/// # Errors
/// The input is no saved state, of another format, or damaged.
pub fn decode(bytes: &[u8]) -> Result<Image> {
    let rest = bytes.strip_prefix(MAGIC);
    let mut rest = Rest(rest.ok_or(Error::NotState("its first bytes are others"))?);
    let format = u32::from_le_bytes(*rest.array()?);
    if format != FORMAT {
        return Err(Error::Format(format));
    }
    let len = rest.u64()?;
    let sections = serde_json::from_slice::<BTreeMap<String, Section>>(rest.take(len)?);
    let sections = sections.map_err(|e| Error::Damaged(format!("sections: {e}")))?;
    let mut image = Image {
        sections,
        ..Image::default()
    };
    let mut next = 0;
    for _ in 0..rest.u64()? {
        let gpa = rest.u64()?;
        if gpa < next || gpa % PAGE as u64 != 0 {
            return Err(Error::Damaged(format!(
                "a page at {gpa:#x} is out of order"
            )));
        }
        next = gpa.saturating_add(1);
        image.memory.put(gpa, rest.array()?);
    }
    match rest.0 {
        [] => Ok(image),
        _ => Err(Error::Damaged("there is more behind its end".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut image = Image::default();
        image.memory.put(0x2000, &[7; PAGE]);
        image.memory.put(0x1000, &[0; PAGE]);
        image.memory.put(0x10_0000_0000, &[8; PAGE]);
        image.put("com1", &crate::devices::FastA20 { value: 2 });
        let mut bytes = Vec::new();
        encode(&image, &mut bytes).unwrap();
        assert_eq!(decode(&bytes), Ok(image));
        bytes
    }

    #[test]
    fn there_and_back_and_every_cut_is_noticed() {
        let bytes = sample();
        for len in (0..bytes.len()).step_by(37) {
            assert!(decode(&bytes[..len]).is_err(), "{len}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(matches!(decode(&longer), Err(Error::Damaged(_))));
    }

    #[test]
    fn other_formats_and_absurd_lengths_are_refused() {
        let mut bytes = sample();
        bytes[MAGIC.len()] = 9;
        assert_eq!(decode(&bytes), Err(Error::Format(9)));
        bytes[MAGIC.len()] = 1;
        bytes[MAGIC.len() + 4..MAGIC.len() + 12].fill(0xff);
        assert!(matches!(decode(&bytes), Err(Error::Damaged(_))));
        assert!(matches!(decode(b"QEVM"), Err(Error::NotState(_))));
    }
}
