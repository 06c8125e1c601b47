//! GSI routing: which pins and messages a global system interrupt drives
//! (`KVM_SET_GSI_ROUTING`).

/// Number of GSIs (`KVM_MAX_IRQ_ROUTES`).
pub const MAX_GSI: u32 = 4096;

/// Where a GSI goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A line of the 8259 pair: 0..=7 master, 8..=15 slave.
    Pic(u8),
    /// A pin of the I/O APIC, 0..=23.
    IoApic(u8),
    /// A message, sent on each assertion.
    Msi {
        /// Address, upper half included.
        address: u64,
        /// Data.
        data: u32,
    },
}

/// Why a routing table was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// GSI number of [`MAX_GSI`] or more.
    BadGsi(u32),
    /// The chip has no such pin.
    BadPin(Route),
    /// A GSI may have one line per chip, or one MSI and nothing else.
    Conflict(u32),
}

impl std::fmt::Display for RouteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadGsi(gsi) => write!(f, "GSI {gsi} is not below {MAX_GSI}"),
            Self::BadPin(route) => write!(f, "the chip has no such pin: {route:?}"),
            Self::Conflict(gsi) => write!(f, "GSI {gsi} is routed twice to one chip"),
        }
    }
}

impl std::error::Error for RouteError {}

/// The routes of one GSI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    pub(crate) pic: Option<u8>,
    pub(crate) ioapic: Option<u8>,
    pub(crate) msi: Option<(u64, u32)>,
}

impl Targets {
    fn add(&mut self, gsi: u32, route: Route) -> Result<(), RouteError> {
        let conflict = match route {
            Route::Pic(_) => self.pic.is_some() || self.msi.is_some(),
            Route::IoApic(_) => self.ioapic.is_some() || self.msi.is_some(),
            Route::Msi { .. } => *self != Self::default(),
        };
        if conflict {
            return Err(RouteError::Conflict(gsi));
        }
        match route {
            Route::Pic(pin) if pin < 16 => self.pic = Some(pin),
            Route::IoApic(pin) if pin < 24 => self.ioapic = Some(pin),
            Route::Msi { address, data } => self.msi = Some((address, data)),
            bad => return Err(RouteError::BadPin(bad)),
        }
        Ok(())
    }
}

/// A GSI routing table.
#[derive(Clone, Debug)]
pub struct Routing {
    targets: Vec<Targets>,
}

impl Default for Routing {
    /// The PC's: GSI 0..=15 to the 8259s and the I/O APIC pin of the same
    /// number, except that GSI 0 is I/O APIC pin 2 and GSI 2, the cascade, is
    /// nothing on the 8259 side and pin 0 is the 8259s' own; 16..=23 to the
    /// I/O APIC only.
    fn default() -> Self {
        let targets = (0..24)
            .map(|gsi| Targets {
                pic: (gsi < 16 && gsi != 2).then_some(gsi),
                ioapic: match gsi {
                    0 => Some(2),
                    2 => None,
                    pin => Some(pin),
                },
                msi: None,
            })
            .collect();
        Self { targets }
    }
}

impl Routing {
    /// Builds a table from `(gsi, route)` pairs.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn new(routes: impl IntoIterator<Item = (u32, Route)>) -> Result<Self, RouteError> {
        let mut targets: Vec<Targets> = Vec::new();
        for (gsi, route) in routes {
            if gsi >= MAX_GSI {
                return Err(RouteError::BadGsi(gsi));
            }
            let index = gsi as usize;
            if index >= targets.len() {
                targets.resize(index + 1, Targets::default());
            }
            targets[index].add(gsi, route)?;
        }
        Ok(Self { targets })
    }

    pub(crate) fn targets(&self, gsi: u32) -> Targets {
        let entry = self.targets.get(gsi as usize);
        entry.copied().unwrap_or_default()
    }

    /// GSIs that drive a pin for which `is_pin` holds.
    pub(crate) fn gsis(&self, is_pin: impl Fn(&Targets) -> bool) -> impl Iterator<Item = u32> {
        let indexed = self.targets.iter().enumerate();
        indexed.filter_map(move |(gsi, t)| is_pin(t).then_some(gsi as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_the_pc() {
        let routing = Routing::default();
        assert_eq!(routing.targets(0).ioapic, Some(2));
        assert_eq!(routing.targets(0).pic, Some(0));
        assert_eq!(routing.targets(2), Targets::default());
        assert_eq!(routing.targets(9).ioapic, Some(9));
        assert_eq!(routing.targets(9).pic, Some(9));
        assert_eq!(routing.targets(23).ioapic, Some(23));
        assert_eq!(routing.targets(23).pic, None);
        assert_eq!(routing.targets(24), Targets::default());
        assert_eq!(routing.targets(u32::MAX), Targets::default());
    }

    #[test]
    fn impossible_tables_are_refused() {
        let msi = Route::Msi {
            address: 0xfee0_0000,
            data: 0x30,
        };
        let cases = [
            (vec![(MAX_GSI, msi)], RouteError::BadGsi(MAX_GSI)),
            (
                vec![(0, Route::Pic(16))],
                RouteError::BadPin(Route::Pic(16)),
            ),
            (
                vec![(0, Route::IoApic(24))],
                RouteError::BadPin(Route::IoApic(24)),
            ),
            (vec![(5, msi), (5, Route::Pic(5))], RouteError::Conflict(5)),
            (
                vec![(5, Route::Pic(5)), (5, Route::Pic(6))],
                RouteError::Conflict(5),
            ),
            (
                vec![(7, Route::IoApic(1)), (7, msi)],
                RouteError::Conflict(7),
            ),
        ];
        for (table, error) in cases {
            assert_eq!(Routing::new(table).unwrap_err(), error);
        }
    }
}
