//! The processors the guest sees: topology, models, features, CPUID tables.

mod features;
mod models;
mod table;
mod topology;

pub use features::{FEATURES, Feature};
pub use models::{MODELS, Model};
pub use table::{Unsupported, for_vcpu, missing, tell_frequency};
pub use topology::{Smp, Topology};

/// What `-cpu` asks for.
#[derive(Clone, Debug)]
pub struct CpuConfig {
    /// The model.
    pub model: &'static Model,
    /// Features switched on or off, in order.
    pub changes: Vec<(&'static Feature, bool)>,
    /// A feature of the model that the accelerator lacks is an error.
    pub enforce: bool,
}

impl Default for CpuConfig {
    fn default() -> Self {
        Self {
            model: &models::MAX,
            changes: Vec::new(),
            enforce: false,
        }
    }
}
