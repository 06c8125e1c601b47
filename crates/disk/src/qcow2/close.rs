//! Closing.

use super::Qcow2;
use crate::errno::IoResult;
use std::sync::atomic::Ordering;

impl Qcow2 {
    /// Writes everything that is still in memory. Dropping the image does
    /// this too, but nobody learns then whether it worked.
    ///
    /// # Errors
    /// The host's.
    pub fn close(&self) -> IoResult<()> {
        let _alone = self.gate.write();
        match self.read_only || self.corrupt.load(Ordering::SeqCst) {
            true => Ok(()),
            false => self.settle(),
        }
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        // An image that was never written to has nothing to settle.
        let _ = self.close();
    }
}
