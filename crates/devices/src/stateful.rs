//! Devices that can be saved and restored.

use state::{Image, Result};

/// A device whose state belongs to a machine's saved state. While it is saved
/// or restored no vCPU runs.
pub trait Stateful: Send + Sync {
    /// Puts its sections into `image`, under the name `instance`. A device
    /// with threads of its own stops them first and waits for what they do.
    fn save(&self, instance: &str, image: &mut Image) -> Result<()>;
    /// Takes its sections. It drives no interrupt line: the interrupt
    /// controllers remember the lines' levels themselves.
    fn restore(&self, instance: &str, image: &mut Image) -> Result<()>;
    /// Its own threads go on, after it was saved or restored.
    fn resume(&self) {}
}

/// An error about a section whose contents cannot be.
pub(crate) fn impossible(name: &str, instance: &str, why: &str) -> state::Error {
    state::Error::Impossible {
        name: format!("{name}/{instance}"),
        why: why.into(),
    }
}
