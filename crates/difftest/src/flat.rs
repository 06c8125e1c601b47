//! The data window as plain bytes with the same permissions.

use x86::Exception;

use crate::layout::{DATA, PAGE, Perm, perm};

/// Page-fault error code bits (SDM vol 3, 4.7).
const WRITE: u32 = 1 << 1;
const USER: u32 = 1 << 2;

/// A copy of the window.
#[derive(Clone, Debug, Default)]
pub struct Flat {
    /// `layout::DATA_LEN` bytes from `layout::DATA` on.
    pub bytes: Vec<u8>,
}

impl Flat {
    /// Checks an access of `len` bytes.
    ///
    /// # Errors
    /// #PF at the first byte that is not permitted.
    pub fn check(&self, la: u64, len: u64, write: bool) -> Result<(), Exception> {
        let mut at = la;
        let end = la.wrapping_add(len);
        while at < end {
            let p = perm(at);
            if p == Perm::None || (write && p != Perm::ReadWrite) {
                let code = USER | if write { WRITE } else { 0 } | u32::from(p != Perm::None);
                return Err(Exception::pf(at, code));
            }
            at = (at | (PAGE - 1)) + 1;
        }
        Ok(())
    }
    fn slot(&mut self, la: u64, len: usize) -> Option<&mut [u8]> {
        let at = la.checked_sub(DATA)? as usize;
        self.bytes.get_mut(at..at.checked_add(len)?)
    }
    /// Reads.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn read(&mut self, la: u64, buf: &mut [u8], write: bool) -> Result<(), Exception> {
        self.check(la, buf.len() as u64, write)?;
        if let Some(s) = self.slot(la, buf.len()) {
            buf.copy_from_slice(s);
        }
        Ok(())
    }
    /// Writes, all or nothing.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn write(&mut self, la: u64, buf: &[u8]) -> Result<(), Exception> {
        self.check(la, buf.len() as u64, true)?;
        if let Some(s) = self.slot(la, buf.len()) {
            s.copy_from_slice(buf);
        }
        Ok(())
    }
}
