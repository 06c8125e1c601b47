//! The networks of a machine, by id. They stay across resets.

use crate::config::{NetdevConfig, NetdevKind};
use crate::outcome::{Error, Result};
use net::{Network, Nowhere, Stream, Tap, UserNet};
use parking_lot::Mutex;
use std::sync::Arc;
use virtio::net::{LinkState, SharedNetwork};

/// One network: what an adapter is plugged into.
#[derive(Clone)]
pub struct Socket {
    /// The network.
    pub network: SharedNetwork,
    /// The cable.
    pub link: Arc<LinkState>,
}

impl Socket {
    fn new(network: Box<dyn Network>) -> Self {
        Self {
            network: Arc::new(Mutex::new(network)),
            link: Arc::default(),
        }
    }
}

/// The networks.
#[derive(Default)]
pub struct Networks(Vec<(String, Socket)>);

/// Makes the network of a kind: one arm each.
fn make(kind: &NetdevKind) -> std::result::Result<Box<dyn Network>, String> {
    Ok(match kind {
        NetdevKind::Nowhere => Box::new(Nowhere::new().map_err(|e| e.to_string())?),
        NetdevKind::User(config) => {
            Box::new(UserNet::new(config.clone()).map_err(|e| e.to_string())?)
        }
        NetdevKind::Tap(config) => Box::new(Tap::open(config.clone())?),
        NetdevKind::Stream(config) => Box::new(Stream::open(config.clone())?),
    })
}

impl Networks {
    /// Makes every network.
    pub fn open(configs: &[NetdevConfig]) -> Result<Self> {
        let open = |config: &NetdevConfig| {
            let network = make(&config.kind).map_err(|why| Error::Netdev {
                id: config.id.clone(),
                why,
            })?;
            Ok((config.id.clone(), Socket::new(network)))
        };
        configs.iter().map(open).collect::<Result<_>>().map(Self)
    }

    /// The cables, by the networks' ids.
    pub fn links(&self) -> Vec<(String, Arc<LinkState>)> {
        let links = self.0.iter();
        links
            .map(|(id, socket)| (id.clone(), socket.link.clone()))
            .collect()
    }

    /// What an adapter is plugged into that names this network, or none.
    pub fn plug(&self, id: Option<&str>) -> std::result::Result<Socket, String> {
        let Some(id) = id else {
            let network = make(&NetdevKind::Nowhere);
            let network = network?;
            return Ok(Socket::new(network));
        };
        let found = self.0.iter().find(|(name, _)| name == id);
        match found {
            Some((_, socket)) => Ok(socket.clone()),
            None => Err(format!("there is no netdev '{id}'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_find_their_networks_again() {
        let config = NetdevConfig {
            id: "n0".into(),
            kind: NetdevKind::Nowhere,
        };
        let networks = Networks::open(&[config]).unwrap();
        let plug = |id| networks.plug(id).map(|socket| socket.link);
        let (first, again) = (plug(Some("n0")).unwrap(), plug(Some("n0")).unwrap());
        assert!(Arc::ptr_eq(&first, &again));
        assert!(Arc::ptr_eq(&first, &networks.links()[0].1));
        assert!(!Arc::ptr_eq(&first, &plug(None).unwrap()));
        let why = plug(Some("n1")).err().unwrap();
        assert_eq!(why, "there is no netdev 'n1'");
    }
}
