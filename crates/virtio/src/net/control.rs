//! Commands of the driver (5.1.6.5), and what they set.

use super::feature;
use super::filter::{Filter, Mac, Table, mode};
use super::header::accepts;
use crate::chain::Chain;
use crate::queue::Broken;
use net::Accepts;

/// Classes.
mod class {
    pub const RX: u8 = 0;
    pub const MAC: u8 = 1;
    pub const MQ: u8 = 4;
    pub const GUEST_OFFLOADS: u8 = 5;
}

/// Commands of the class of addresses.
const TABLE_SET: u8 = 0;
const ADDRESS_SET: u8 = 1;

/// The command of the class of queues.
const PAIRS_SET: u8 = 0;

/// Most bytes of a command: more than any has that makes sense.
const MAX_COMMAND: usize = 64 << 10;

const OK: u8 = 0;
const ERROR: u8 = 1;

/// Features that are offloads, too.
const OFFLOADS: u64 =
    feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::GUEST_ECN;

/// What the driver set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Which frames it wants.
    pub(super) filter: Filter,
    /// What is on of the features that are offloads; all it knows if it did not
    /// say.
    pub(super) offloads: Option<u64>,
    /// Pairs of queues it uses, the first ones.
    pub(super) pairs: u16,
    /// How many there are.
    pub(super) most_pairs: u16,
}

impl Settings {
    /// As the driver finds them.
    pub(super) fn new(mac: Mac, most_pairs: u16) -> Self {
        Self {
            filter: Filter::new(mac),
            offloads: None,
            pairs: 1,
            most_pairs,
        }
    }

    /// What a driver with these features accepts at present.
    pub(super) fn accepts(&self, features: u64) -> Accepts {
        accepts(self.offloads.unwrap_or(features) & features)
    }

    /// Does a command; `None` if it cannot be done.
    fn act(&mut self, features: u64, command: &[u8]) -> Option<()> {
        let (&[class, command], data) = command.split_first_chunk()?;
        let agreed = |bit| (features & bit != 0).then_some(());
        match (class, command) {
            (class::RX, command) => {
                let command = usize::from(command);
                agreed(match command {
                    mode::PROMISC | mode::ALL_MULTI => feature::CTRL_RX,
                    _ => feature::CTRL_RX_EXTRA,
                })?;
                let place = self.filter.modes.get_mut(command)?;
                *place = *data.first()? != 0;
            }
            (class::MAC, TABLE_SET) => {
                agreed(feature::CTRL_RX)?;
                let (unicast, data) = table(data)?;
                let (multicast, _) = table(data)?;
                self.filter.unicast = unicast;
                self.filter.multicast = multicast;
            }
            (class::MAC, ADDRESS_SET) => {
                agreed(feature::CTRL_MAC_ADDR)?;
                self.filter.mac = *data.first_chunk()?;
            }
            (class::MQ, PAIRS_SET) => {
                agreed(feature::MQ)?;
                let pairs = u16::from_le_bytes(*data.first_chunk()?);
                let there = (1..=self.most_pairs).contains(&pairs);
                self.pairs = there.then_some(pairs)?;
            }
            (class::GUEST_OFFLOADS, 0) => {
                agreed(feature::CTRL_GUEST_OFFLOADS)?;
                let offloads = u64::from_le_bytes(*data.first_chunk()?);
                if offloads & !(features & OFFLOADS) != 0 {
                    return None;
                }
                self.offloads = Some(offloads);
            }
            _ => return None,
        }
        Some(())
    }
}

/// A table of addresses, and what follows it.
fn table(data: &[u8]) -> Option<(Table, &[u8])> {
    let (count, data) = data.split_first_chunk()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (addresses, data) = data.split_at_checked(count.checked_mul(6)?)?;
    let (addresses, _) = addresses.as_chunks::<6>();
    Some((Table::new(addresses.iter().copied()), data))
}

/// Serves a command; the bytes of its answer.
pub(super) fn serve(
    mut chain: Chain<'_>,
    features: u64,
    settings: &mut Settings,
) -> Result<u32, Broken> {
    let len = chain.readable_len();
    if chain.writable_len() == 0 || len < 2 {
        return Err(Broken("a command is cut off or has no room for its answer"));
    }
    let mut command = vec![0; len.min(MAX_COMMAND)];
    chain.take(&mut command);
    let done = match len <= MAX_COMMAND {
        true => settings.act(features, &command),
        false => None,
    };
    if done.is_none() {
        let head = &command[..2];
        log::warn!(target: "guest_errors", "virtio-net: command {head:?} of {len} bytes is refused");
    }
    let answer = if done.is_some() { OK } else { ERROR };
    Ok(chain.fill(&[answer]) as u32)
}
