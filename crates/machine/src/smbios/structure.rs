//! One structure: a formatted area and its strings (6.1).

/// A structure being built.
pub(super) struct Structure {
    /// With the header; its length byte is filled in at the end.
    formatted: Vec<u8>,
    strings: Vec<String>,
}

impl Structure {
    pub(super) fn new(kind: u8, handle: u16) -> Self {
        let mut formatted = vec![kind, 0];
        formatted.extend(handle.to_le_bytes());
        Self {
            formatted,
            strings: Vec::new(),
        }
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.formatted.push(value);
        self
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.formatted.extend(bytes);
        self
    }

    /// The number of a string; 0 for none. A structure has at most 255.
    pub(super) fn text(mut self, text: &str) -> Self {
        let number = match text {
            "" => 0,
            text => {
                self.strings.push(text.into());
                self.strings.len() as u8
            }
        };
        self.u8(number)
    }

    /// A string that no field refers to.
    pub(super) fn string(mut self, text: &str) -> Self {
        self.strings.push(text.into());
        self
    }

    /// As a guest reads it: strings end with NUL, their list with another.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.formatted.clone();
        bytes[1] = bytes.len() as u8;
        for string in &self.strings {
            bytes.extend(string.bytes());
            bytes.push(0);
        }
        if self.strings.is_empty() {
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }
}
