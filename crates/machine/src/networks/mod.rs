//! The networks of a machine, by id. They stay across resets; some come and
//! go while it runs.

mod pump;

use crate::config::{NetdevConfig, NetdevKind};
use crate::outcome::{Error, Result};
use net::{
    Dgram, DumpConfig, Dumps, Hub, HubPort, Network, Nowhere, Stream, Tap, UserControl, UserNet,
    VhostUser, Watched,
};
use parking_lot::Mutex;
use pump::Pump;
use std::collections::BTreeMap;
use std::sync::Arc;
use virtio::net::{LinkState, SharedNetwork};

/// One network: what an adapter is plugged into.
#[derive(Clone)]
pub struct Socket {
    /// The network's queues: one, or as many as it has.
    pub networks: Vec<SharedNetwork>,
    /// The cable.
    pub link: Arc<LinkState>,
    /// What is written of its frames.
    pub dumps: Arc<Dumps>,
    /// What a user-mode network can be asked.
    pub user: Option<UserControl>,
}

impl Socket {
    /// Has a user-mode network answer, if it is one.
    pub fn ask<T>(&self, what: impl FnOnce(&UserControl, &dyn Fn()) -> T) -> Option<T> {
        let idle = || {
            let networks = self.networks.iter();
            for mut network in networks.filter_map(|network| network.try_lock()) {
                network.attend();
            }
        };
        Some(what(self.user.as_ref()?, &idle))
    }

    fn new(queues: Vec<Box<dyn Network>>) -> Self {
        let dumps = Arc::<Dumps>::default();
        let shared = |network| {
            let watched = Watched::new(network, dumps.clone());
            Arc::new(Mutex::new(Box::new(watched) as Box<dyn Network>))
        };
        Self {
            networks: queues.into_iter().map(shared).collect(),
            link: Arc::default(),
            dumps,
            user: None,
        }
    }
}

/// The networks.
#[derive(Default)]
pub struct Networks(Mutex<State>);

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    hubs: BTreeMap<u32, Hub>,
}

struct Entry {
    config: NetdevConfig,
    socket: Socket,
    /// Moves frames between a hub and its network.
    _pump: Option<Pump>,
}

/// Makes the network of a kind, by its queues: one arm each.
fn make(kind: &NetdevKind) -> std::result::Result<Socket, String> {
    let one: Box<dyn Network> = match kind {
        NetdevKind::Nowhere => Box::new(Nowhere::new().map_err(|e| e.to_string())?),
        NetdevKind::User(config) => {
            let user = UserNet::new(config.clone()).map_err(|e| e.to_string())?;
            let control = user.control();
            let mut socket = Socket::new(vec![Box::new(user)]);
            socket.user = Some(control);
            return Ok(socket);
        }
        NetdevKind::Tap(config) => {
            return Ok(Socket::new(boxed(Tap::open(config)?)));
        }
        NetdevKind::VhostUser(config) => {
            return Ok(Socket::new(boxed(VhostUser::open(config)?)));
        }
        NetdevKind::Stream(config) => Box::new(Stream::open(config.clone())?),
        NetdevKind::Dgram(config) => Box::new(Dgram::open(config)?),
        NetdevKind::Socket(config) => config.open()?,
        NetdevKind::HubPort { .. } => return Err("a port is its hub's".into()),
    };
    Ok(Socket::new(vec![one]))
}

fn boxed<N: Network + 'static>(queues: Vec<N>) -> Vec<Box<dyn Network>> {
    let queues = queues.into_iter();
    queues
        .map(|queue| Box::new(queue) as Box<dyn Network>)
        .collect()
}

/// The network that a hub's port is plugged into.
fn behind(kind: &NetdevKind) -> Option<&str> {
    match kind {
        NetdevKind::HubPort { netdev, .. } => netdev.as_deref(),
        _ => None,
    }
}

impl State {
    fn find(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.config.id == id)
    }

    /// The hub's port that a network is plugged into.
    fn port_of(&self, id: &str) -> Option<&str> {
        let mut entries = self.entries.iter();
        let found = entries.find(|entry| behind(&entry.config.kind) == Some(id));
        found.map(|entry| &*entry.config.id)
    }

    fn make(&mut self, kind: &NetdevKind) -> std::result::Result<(Socket, Option<Pump>), String> {
        let NetdevKind::HubPort { hub, netdev } = kind else {
            return Ok((make(kind)?, None));
        };
        let failed = |e: std::io::Error| e.to_string();
        let port = self.hubs.entry(*hub).or_default().port().map_err(failed)?;
        match netdev {
            None => Ok((Socket::new(vec![Box::new(port)]), None)),
            Some(netdev) => {
                let pump = self.pump(port, netdev)?;
                let nobody = Nowhere::new().map_err(failed)?;
                let mut socket = Socket::new(vec![Box::new(nobody)]);
                // Port and network are the ends of one cable.
                if let Some(network) = self.find(netdev) {
                    socket.link = network.socket.link.clone();
                }
                Ok((socket, Some(pump)))
            }
        }
    }

    /// Plugs a network into a hub's port.
    fn pump(&self, port: HubPort, netdev: &str) -> std::result::Result<Pump, String> {
        if let Some(other) = self.port_of(netdev) {
            return Err(format!("the netdev '{netdev}' is in use by '{other}'"));
        }
        let found = self.find(netdev);
        let found = found.ok_or_else(|| format!("there is no netdev '{netdev}'"))?;
        match (&found.config.kind, &*found.socket.networks) {
            (NetdevKind::HubPort { .. }, _) => {
                Err(format!("the netdev '{netdev}' is a hub's port, too"))
            }
            (_, [network]) => Pump::start(port, network.clone(), found.socket.link.clone())
                .map_err(|e| e.to_string()),
            _ => Err(format!(
                "the netdev '{netdev}' has several queues, a hub's port one"
            )),
        }
    }
}

impl Networks {
    /// Makes every network.
    pub fn open(configs: &[NetdevConfig]) -> Result<Self> {
        let networks = Self::default();
        // A port may be named before its network.
        let (ports, others): (Vec<_>, Vec<_>) =
            configs.iter().partition(|c| behind(&c.kind).is_some());
        let mut all = others.into_iter().chain(ports);
        all.try_for_each(|config| networks.add(config))?;
        Ok(networks)
    }

    /// Makes one more.
    pub fn add(&self, config: &NetdevConfig) -> Result<()> {
        let error = |why| Error::Netdev {
            id: config.id.clone(),
            why,
        };
        let mut state = self.0.lock();
        if state.find(&config.id).is_some() {
            return Err(error("there is a netdev of this name".into()));
        }
        let (socket, pump) = state.make(&config.kind).map_err(error)?;
        state.entries.push(Entry {
            config: config.clone(),
            socket,
            _pump: pump,
        });
        Ok(())
    }

    /// Ends one that no adapter uses any more.
    pub fn remove(&self, id: &str) -> Result<()> {
        let error = |why| Error::Netdev { id: id.into(), why };
        let mut state = self.0.lock();
        if let Some(port) = state.port_of(id) {
            return Err(error(format!("it is in use by '{port}'")));
        }
        let at = state.entries.iter().position(|e| e.config.id == id);
        let at = at.ok_or_else(|| error("there is no such netdev".into()))?;
        state.entries.remove(at);
        Ok(())
    }

    /// What each one is.
    pub fn all(&self) -> Vec<NetdevConfig> {
        let state = self.0.lock();
        state.entries.iter().map(|e| e.config.clone()).collect()
    }

    /// The cable of a network.
    pub fn link(&self, id: &str) -> Option<Arc<LinkState>> {
        self.socket(id).map(|socket| socket.link)
    }

    /// A network by its name.
    pub fn socket(&self, id: &str) -> Option<Socket> {
        self.0.lock().find(id).map(|entry| entry.socket.clone())
    }

    /// What an adapter is plugged into that names this network, or none.
    pub fn plug(&self, id: Option<&str>) -> std::result::Result<Socket, String> {
        let Some(id) = id else {
            return make(&NetdevKind::Nowhere);
        };
        let state = self.0.lock();
        let found = state.find(id);
        let found = found.ok_or_else(|| format!("there is no netdev '{id}'"))?;
        match (state.port_of(id), behind(&found.config.kind)) {
            (Some(other), _) | (_, Some(other)) => {
                Err(format!("the netdev '{id}' is in use by '{other}'"))
            }
            _ => Ok(found.socket.clone()),
        }
    }

    /// Begins to write a network's frames to a file.
    pub fn add_dump(&self, config: &DumpConfig) -> std::result::Result<(), String> {
        let state = self.0.lock();
        let DumpConfig { id, netdev, .. } = config;
        let mut all = state.entries.iter().flat_map(|e| e.socket.dumps.configs());
        if all.any(|dump| dump.id == *id) {
            return Err(format!("there is an object '{id}' already"));
        }
        let found = state.find(netdev);
        let found = found.ok_or_else(|| format!("there is no netdev '{netdev}'"))?;
        if let Some(behind) = behind(&found.config.kind) {
            return Err(format!(
                "netdev={netdev}: say netdev={behind}, whose port it is"
            ));
        }
        found.socket.dumps.add(config.clone())
    }

    /// Ends that; false if there is none.
    pub fn remove_dump(&self, id: &str) -> bool {
        let state = self.0.lock();
        state.entries.iter().any(|e| e.socket.dumps.remove(id))
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
        assert!(Arc::ptr_eq(&first, &networks.link("n0").unwrap()));
        assert!(!Arc::ptr_eq(&first, &plug(None).unwrap()));
        let why = plug(Some("n1")).err().unwrap();
        assert_eq!(why, "there is no netdev 'n1'");
    }

    fn port(id: &str, netdev: Option<&str>) -> NetdevConfig {
        let netdev = netdev.map(Into::into);
        NetdevConfig {
            id: id.into(),
            kind: NetdevKind::HubPort { hub: 3, netdev },
        }
    }

    #[test]
    fn a_network_on_a_hub_is_nobody_elses() {
        let network = NetdevConfig {
            id: "n0".into(),
            kind: NetdevKind::Nowhere,
        };
        // In any order.
        let configs = [port("p0", Some("n0")), network, port("p1", None)];
        let networks = Networks::open(&configs).unwrap();
        assert!(networks.plug(Some("p1")).is_ok());
        let [of_port, of_network] = ["p0", "n0"].map(|id| networks.link(id).unwrap());
        assert!(Arc::ptr_eq(&of_port, &of_network), "one cable");
        for (id, other) in [("n0", "p0"), ("p0", "n0")] {
            let why = networks.plug(Some(id)).err().unwrap();
            assert_eq!(why, format!("the netdev '{id}' is in use by '{other}'"));
        }
        for (netdev, why) in [
            ("n0", "the netdev 'n0' is in use by 'p0'"),
            ("p1", "the netdev 'p1' is a hub's port, too"),
            ("n9", "there is no netdev 'n9'"),
        ] {
            let error = networks.add(&port("p2", Some(netdev))).unwrap_err();
            assert_eq!(error.to_string(), format!("netdev 'p2': {why}"));
        }
        assert!(networks.remove("n0").is_err());
        networks.remove("p0").unwrap();
        assert!(networks.plug(Some("n0")).is_ok());
        networks.remove("n0").unwrap();
    }

    #[test]
    fn frames_pass_a_hub_to_its_networks_and_back() {
        use net::{Frame, Guest};
        use std::os::unix::net::UnixDatagram;
        use std::time::{Duration, Instant};

        struct One(Vec<Vec<u8>>);
        impl Guest for One {
            fn has_room(&mut self) -> bool {
                true
            }
            fn deliver(&mut self, frame: &Frame) {
                self.0.push(frame.bytes.clone());
            }
        }

        let folder = std::env::temp_dir();
        let path = |name: &str| folder.join(format!("hub-{}-{name}", std::process::id()));
        let (local, remote) = (path("local"), path("remote"));
        let peer = UnixDatagram::bind(&remote).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let config = net::DgramConfig::Unix {
            local: local.clone(),
            remote: remote.clone(),
        };
        let network = NetdevConfig {
            id: "n0".into(),
            kind: NetdevKind::Dgram(config),
        };
        let configs = [network, port("p0", Some("n0")), port("p1", None)];
        let networks = Networks::open(&configs).unwrap();
        let socket = networks.plug(Some("p1")).unwrap();
        let mut adapter = socket.networks[0].lock();
        adapter.accepts(net::Accepts::default());
        // The port's thread may not be there yet; a frame for nobody is lost.
        let mut buffer = [0; 16];
        let mut guest = One(Vec::new());
        let limit = Instant::now() + Duration::from_secs(20);
        peer.send_to(b"to the guest", &local).unwrap();
        while guest.0.is_empty() {
            assert!(Instant::now() < limit);
            adapter.run(Instant::now(), &mut guest).unwrap();
        }
        assert_eq!(guest.0, [b"to the guest"]);
        let frame = Frame {
            bytes: b"from it".to_vec(),
            ..Frame::default()
        };
        assert!(adapter.send(&frame));
        assert_eq!(peer.recv(&mut buffer).unwrap(), 7);
        assert_eq!(&buffer[..7], b"from it");
        drop(adapter);
        drop(networks);
        std::fs::remove_file(remote).unwrap();
    }
}
