//! Every function of every bus and the schema, by address: `04.0` on the root
//! bus, `1/04.0` on the first one behind a bridge.

use super::{Address, BusId, PciFunction, PciRoot};
use crate::Stateful;
use state::{Image, Result};
use std::sync::Arc;

impl PciRoot {
    /// The functions under their sections' names.
    fn named(&self) -> impl Iterator<Item = (String, Arc<dyn PciFunction>)> {
        let of_bus = |bus: BusId| {
            let named = move |(at, function): (Address, _)| match bus {
                BusId::ROOT => (at.to_string(), function),
                BusId(number) => (format!("{number}/{at}"), function),
            };
            self.functions(bus).into_iter().map(named)
        };
        self.buses().flat_map(of_bus)
    }
}

fn stateful<'a>(name: &str, function: &'a dyn PciFunction) -> Result<&'a dyn Stateful> {
    let error = || state::Error::Unsupported(format!("the PCI function at {name}"));
    function.stateful().ok_or_else(error)
}

impl Stateful for PciRoot {
    fn save(&self, _: &str, image: &mut Image) -> Result<()> {
        self.named()
            .try_for_each(|(name, function)| stateful(&name, &*function)?.save(&name, image))
    }

    fn restore(&self, _: &str, image: &mut Image) -> Result<()> {
        let restored = self
            .named()
            .try_for_each(|(name, function)| stateful(&name, &*function)?.restore(&name, image));
        self.refresh();
        restored
    }

    fn resume(&self) {
        for (_, function) in self.named() {
            function.stateful().into_iter().for_each(Stateful::resume);
        }
    }
}
