//! Which frames the driver wants (5.1.6.5.1, 5.1.6.5.2).

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];

/// Most addresses of a table; of more than that none is looked at.
const MAX_ADDRESSES: usize = 64;

/// Numbers of the modes, which are those of their commands.
pub(super) mod mode {
    pub const PROMISC: usize = 0;
    pub const ALL_MULTI: usize = 1;
    pub const ALL_UNI: usize = 2;
    pub const NO_MULTI: usize = 3;
    pub const NO_UNI: usize = 4;
    pub const NO_BROADCAST: usize = 5;
    /// How many there are.
    pub const COUNT: usize = 6;
}

/// Addresses that the driver wants frames for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// The addresses.
    pub(super) addresses: Vec<Mac>,
    /// They were too many, so all are wanted.
    pub(super) all: bool,
}

impl Table {
    pub(super) fn new(addresses: impl ExactSizeIterator<Item = Mac>) -> Self {
        let all = addresses.len() > MAX_ADDRESSES;
        Self {
            addresses: addresses.filter(|_| !all).collect(),
            all,
        }
    }

    fn has(&self, address: &Mac) -> bool {
        self.all || self.addresses.contains(address)
    }
}

/// Which frames of one sort the driver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxMode {
    /// None.
    None,
    /// Those in the table.
    Normal,
    /// All.
    All,
}

/// What the driver set, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxFilter {
    /// The adapter's address.
    pub mac: [u8; 6],
    /// Everything is wanted.
    pub promiscuous: bool,
    /// Frames for everybody are.
    pub broadcast: bool,
    /// Frames for one.
    pub unicast: RxMode,
    /// Frames for groups.
    pub multicast: RxMode,
    /// The table of more addresses was too long, so all are wanted.
    pub unicast_overflow: bool,
    /// The same of groups.
    pub multicast_overflow: bool,
    /// More addresses of its own.
    pub unicast_table: Vec<[u8; 6]>,
    /// Addresses of groups.
    pub multicast_table: Vec<[u8; 6]>,
}

/// What the driver set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// The adapter's address.
    pub(super) mac: Mac,
    /// By their numbers.
    pub(super) modes: [bool; mode::COUNT],
    /// More addresses of its own.
    pub(super) unicast: Table,
    /// Addresses of groups.
    pub(super) multicast: Table,
}

impl Filter {
    /// Everything is wanted until the driver says otherwise: one that knows no
    /// commands has no other way.
    pub(super) fn new(mac: Mac) -> Self {
        let mut modes = [false; mode::COUNT];
        modes[mode::PROMISC] = true;
        Self {
            mac,
            modes,
            unicast: Table::default(),
            multicast: Table::default(),
        }
    }

    /// For others.
    pub(super) fn view(&self) -> RxFilter {
        let mode = |none: usize, all: usize| match (self.modes[none], self.modes[all]) {
            (true, _) => RxMode::None,
            (_, true) => RxMode::All,
            _ => RxMode::Normal,
        };
        RxFilter {
            mac: self.mac,
            promiscuous: self.modes[mode::PROMISC],
            broadcast: !self.modes[mode::NO_BROADCAST],
            unicast: mode(mode::NO_UNI, mode::ALL_UNI),
            multicast: mode(mode::NO_MULTI, mode::ALL_MULTI),
            unicast_overflow: self.unicast.all,
            multicast_overflow: self.multicast.all,
            unicast_table: self.unicast.addresses.clone(),
            multicast_table: self.multicast.addresses.clone(),
        }
    }

    /// The driver wants this frame.
    pub(super) fn passes(&self, frame: &[u8]) -> bool {
        let Some(to) = frame.first_chunk() else {
            return false;
        };
        let on = |mode: usize| self.modes[mode];
        if on(mode::PROMISC) {
            true
        } else if *to == BROADCAST {
            !on(mode::NO_BROADCAST)
        } else if to[0] & 1 != 0 {
            !on(mode::NO_MULTI) && (on(mode::ALL_MULTI) || self.multicast.has(to))
        } else {
            let ours = *to == self.mac || on(mode::ALL_UNI) || self.unicast.has(to);
            !on(mode::NO_UNI) && ours
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const OTHER: Mac = [0x52, 0x54, 0, 0, 0, 9];
    const GROUP: Mac = [1, 0, 0x5e, 0, 0, 1];

    /// Which of own, other, group and broadcast pass.
    fn passes(filter: &Filter) -> [bool; 4] {
        [OWN, OTHER, GROUP, BROADCAST].map(|to| filter.passes(&to))
    }

    #[test]
    fn modes_and_tables_decide() {
        let mut filter = Filter::new(OWN);
        assert_eq!(passes(&filter), [true; 4]);
        filter.modes[mode::PROMISC] = false;
        assert_eq!(passes(&filter), [true, false, false, true]);
        let cases = [
            (mode::ALL_MULTI, [true, false, true, true]),
            (mode::ALL_UNI, [true, true, false, true]),
            (mode::NO_UNI, [false, false, false, true]),
            (mode::NO_BROADCAST, [true, false, false, false]),
        ];
        for (mode, expected) in cases {
            filter.modes[mode] = true;
            assert_eq!(passes(&filter), expected, "{mode}");
            filter.modes[mode] = false;
        }
        filter.multicast = Table::new([GROUP].into_iter());
        filter.unicast = Table::new([OTHER].into_iter());
        assert_eq!(passes(&filter), [true; 4]);
        filter.modes[mode::NO_MULTI] = true;
        assert_eq!(passes(&filter), [true, true, false, true]);
        assert!(!filter.passes(&OWN[..5]), "too short");
    }

    #[test]
    fn a_table_with_too_many_addresses_has_all() {
        let table = |n: usize| Table::new(vec![OTHER; n].into_iter());
        assert!(!table(64).has(&OWN));
        assert!(table(65).has(&OWN));
        assert!(table(65).addresses.is_empty());
    }
}
