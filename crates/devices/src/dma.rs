//! Guest memory for devices that own no mapping of it.

/// Guest memory as a simple bus master reaches it. False where not all of
/// the range is RAM.
pub trait Dma: Send + Sync {
    /// Copies guest memory.
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool;
    /// Copies to guest memory.
    fn write(&self, gpa: u64, bytes: &[u8]) -> bool;
}
