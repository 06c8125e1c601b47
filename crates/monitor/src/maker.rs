//! Making things from options: whoever parses the command line does it.

use machine::{DeviceConfig, DriveConfig, DumpConfig, HostForward, NetdevConfig};

/// Names and values, as `-device` and others take them.
pub type Words = Vec<(String, String)>;

/// Turns options into configurations. Errors are one line that says what is
/// wrong and what would work.
pub trait Maker: Send + Sync {
    /// `-device`, one word of which is `driver`, beside the devices that are
    /// there.
    fn device(&self, words: &Words, there: &[DeviceConfig]) -> Result<DeviceConfig, String>;
    /// `-netdev`; one word is `type`.
    fn netdev(&self, words: &Words) -> Result<NetdevConfig, String>;
    /// `-object filter-dump`; one word is `qom-type`.
    fn dump(&self, words: &Words) -> Result<DumpConfig, String>;
    /// `hostfwd=` of `-netdev user`.
    fn host_forward(&self, rule: &str) -> Result<HostForward, String>;
    /// `-drive`.
    fn drive(&self, words: &Words) -> Result<DriveConfig, String>;
    /// `-blockdev`, as a JSON object.
    fn blockdev(&self, json: &str) -> Result<DriveConfig, String>;
    /// `-d`: what is logged from now on.
    fn log(&self, items: &str) -> Result<(), String>;
}

/// Makes nothing.
pub struct NoMaker;

impl NoMaker {
    fn refuse<T>() -> Result<T, String> {
        Err("nothing can be made here".into())
    }
}

impl Maker for NoMaker {
    fn device(&self, _: &Words, _: &[DeviceConfig]) -> Result<DeviceConfig, String> {
        Self::refuse()
    }
    fn netdev(&self, _: &Words) -> Result<NetdevConfig, String> {
        Self::refuse()
    }
    fn dump(&self, _: &Words) -> Result<DumpConfig, String> {
        Self::refuse()
    }
    fn host_forward(&self, _: &str) -> Result<HostForward, String> {
        Self::refuse()
    }
    fn drive(&self, _: &Words) -> Result<DriveConfig, String> {
        Self::refuse()
    }
    fn blockdev(&self, _: &str) -> Result<DriveConfig, String> {
        Self::refuse()
    }
    fn log(&self, _: &str) -> Result<(), String> {
        Self::refuse()
    }
}
