//! The registers and the schema.

use super::{ProcessorRegisters, SlotRegisters};
use crate::Stateful;
use crate::stateful::impossible;
use state::hotplug::{Processors, Slots};
use state::{Image, Result};

impl Stateful for SlotRegisters {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let core = self.core.lock();
        let saved = Slots {
            selected: core.selected,
            up: core.buses.iter().map(|b| b.up).collect(),
            down: core.buses.iter().map(|b| b.down).collect(),
        };
        image.put(instance, &saved);
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: Slots = image.take(instance)?;
        let mut core = self.core.lock();
        let count = core.buses.len();
        if (saved.up.len(), saved.down.len()) != (count, count) {
            let why = "the number of PCI buses differs";
            return Err(impossible("pci-hotplug", instance, why));
        }
        core.selected = saved.selected;
        for (bus, (up, down)) in core.buses.iter_mut().zip(saved.up.iter().zip(&saved.down)) {
            (bus.up, bus.down) = (*up, *down);
        }
        Ok(())
    }
}

impl Stateful for ProcessorRegisters {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let core = self.core.lock();
        let list = core.processors.iter();
        let saved = Processors {
            selected: core.selected,
            command: core.command,
            processors: list.map(|p| (p.present, p.inserted, p.removing)).collect(),
        };
        image.put(instance, &saved);
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: Processors = image.take(instance)?;
        let mut core = self.core.lock();
        let error = |why: String| Err(impossible("cpu-hotplug", instance, &why));
        if saved.processors.len() != core.processors.len() {
            return error("the number of processors there may be differs".into());
        }
        core.selected = saved.selected;
        core.command = saved.command;
        let pairs = core.processors.iter_mut().zip(&saved.processors);
        for (number, (to, &(present, inserted, removing))) in pairs.enumerate() {
            if to.present != present {
                let verb = if present { "was" } else { "was not" };
                return error(format!("processor {number} {verb} plugged in"));
            }
            (to.inserted, to.removing) = (inserted, removing);
        }
        Ok(())
    }
}
