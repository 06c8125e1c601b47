//! What an exception leaves on the handler's stack (SDM vol 3, 6.12.1, 6.14).

use super::guest::{Guest, Mode};
use super::{Failure, expect};

/// A delivered exception as its handler sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Vector 0..=31.
    pub vector: u8,
    /// Error code, for vectors that push one.
    pub error: Option<u64>,
    /// Return RIP.
    pub ip: u64,
    /// Return CS selector.
    pub cs: u64,
    /// Saved flags.
    pub flags: u64,
    /// Old stack pointer, if the frame has one.
    pub sp: u64,
    /// Old SS selector, if the frame has one.
    pub ss: u64,
    /// Address of the frame's first byte: the handler's stack pointer.
    pub at: u64,
}

/// Vectors with an error code outside real mode (SDM vol 3, table 6-1).
fn has_error(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

impl Frame {
    /// Decodes the frame at linear address `at` (mapped one to one).
    pub fn decode(guest: &Guest, vector: u8, at: u64) -> Self {
        let (width, error) = match guest.mode {
            Mode::Real => (2, false),
            Mode::Long | Mode::Compat => (8, has_error(vector)),
            Mode::Prot32 | Mode::Paging32 | Mode::Pae => (4, has_error(vector)),
        };
        let word = |i: u64| guest.read_uint(at + i * width, width);
        let first = u64::from(error);
        let cs = word(first + 1);
        let outer = width == 8 || (width == 4 && (cs & 3 != 0 || word(first + 2) & (1 << 17) != 0));
        Self {
            vector,
            error: error.then(|| word(0)),
            ip: word(first),
            cs,
            flags: word(first + 2),
            sp: if outer { word(first + 3) } else { 0 },
            ss: if outer { word(first + 4) } else { 0 },
            at,
        }
    }

    /// Fails unless vector, error code and return address are these.
    pub fn expect(&self, vector: u8, error: Option<u64>, ip: u64) -> Result<(), Failure> {
        expect(
            "exception (vector, error code, return address)",
            (self.vector, self.error, self.ip),
            (vector, error, ip),
        )
    }
}
