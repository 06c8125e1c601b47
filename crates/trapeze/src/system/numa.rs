//! `-numa`: nodes, distances, and where processors belong.

use super::keyval;
use super::parse::Options;
use super::size;
use crate::near::did_you_mean;
use machine::MemoryBackend;
use machine::cpu::Topology;
use machine::numa::{LOCAL, MAX_NODES, Numa};
use std::ops::RangeInclusive;

/// What the command line says of nodes.
#[derive(Default)]
pub(crate) struct Asked {
    nodes: Vec<Node>,
    distances: Vec<(usize, usize, u8)>,
    cpus: Vec<Cpus>,
}

struct Node {
    id: usize,
    memory: Memory,
    cpus: Vec<RangeInclusive<u32>>,
}

#[derive(PartialEq)]
enum Memory {
    None,
    Bytes(u64),
    Backend(String),
}

/// Processors by their place; a level that is not given means all.
struct Cpus {
    node: usize,
    socket: Option<u32>,
    core: Option<u32>,
    thread: Option<u32>,
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    let number = value.parse().ok();
    number.ok_or_else(|| format!("{key}={value}: not a number that can be here"))
}

fn node_id(key: &str, value: &str) -> Result<usize, String> {
    match number(key, value)? {
        id if id < MAX_NODES => Ok(id),
        _ => Err(format!(
            "{key}={value}: nodes are numbered from 0 to {}",
            MAX_NODES - 1
        )),
    }
}

fn unknown(key: &str, names: &[&str]) -> String {
    let near = did_you_mean(key, names.iter().copied());
    let list = names.join(", ");
    format!("property '{key}' is not supported{near}; there are {list}")
}

/// `-numa`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let mut words = keyval::parse(value).into_iter();
    let kind = match words.next() {
        Some((word, None)) => word,
        Some((key, Some(kind))) if key == "type" => kind,
        _ => return Err("the type comes first: node, dist or cpu".into()),
    };
    let values = words.map(|(key, value)| match value {
        Some(value) => Ok((key, value)),
        None => Err(format!("{key}= needs a value")),
    });
    let values: Vec<_> = values.collect::<Result<_, _>>()?;
    let asked = &mut options.numa;
    match &*kind {
        "node" => asked.add_node(&values),
        "dist" => asked.add_distance(&values),
        "cpu" => asked.add_cpus(&values),
        kind => {
            let near = did_you_mean(kind, ["node", "dist", "cpu"].into_iter());
            Err(format!(
                "type '{kind}' is not supported{near}; there are node, dist and cpu"
            ))
        }
    }
}

impl Asked {
    fn add_node(&mut self, values: &[(String, String)]) -> Result<(), String> {
        let mut node = Node {
            id: self.nodes.len(),
            memory: Memory::None,
            cpus: Vec::new(),
        };
        for (key, value) in values {
            match &**key {
                "nodeid" => node.id = node_id(key, value)?,
                "mem" => node.memory = Memory::Bytes(size::parse(value, 20)?),
                "memdev" => node.memory = Memory::Backend(value.clone()),
                "cpus" => node.cpus.push(cpu_range(value)?),
                key => return Err(unknown(key, &["nodeid", "mem", "memdev", "cpus"])),
            }
        }
        if self.nodes.iter().any(|n| n.id == node.id) {
            return Err(format!("there is a node {} already", node.id));
        }
        if self.nodes.len() == MAX_NODES {
            return Err(format!("there can be {MAX_NODES} nodes"));
        }
        self.nodes.push(node);
        Ok(())
    }

    fn add_distance(&mut self, values: &[(String, String)]) -> Result<(), String> {
        let (mut src, mut dst, mut val) = (None, None, None);
        for (key, value) in values {
            match &**key {
                "src" => src = Some(node_id(key, value)?),
                "dst" => dst = Some(node_id(key, value)?),
                "val" => val = Some(number::<u8>(key, value)?),
                key => return Err(unknown(key, &["src", "dst", "val"])),
            }
        }
        let (Some(src), Some(dst), Some(val)) = (src, dst, val) else {
            return Err("src=, dst= and val= are needed".into());
        };
        match val {
            0..LOCAL => Err(format!("val={val}: a distance is at least {LOCAL}")),
            val if src == dst && val != LOCAL => {
                Err(format!("val={val}: a node's distance to itself is {LOCAL}"))
            }
            val => {
                self.distances.push((src, dst, val));
                Ok(())
            }
        }
    }

    fn add_cpus(&mut self, values: &[(String, String)]) -> Result<(), String> {
        let mut node = None;
        let mut cpus = Cpus {
            node: 0,
            socket: None,
            core: None,
            thread: None,
        };
        for (key, value) in values {
            match &**key {
                "node-id" => node = Some(node_id(key, value)?),
                "socket-id" => cpus.socket = Some(number(key, value)?),
                "core-id" => cpus.core = Some(number(key, value)?),
                "thread-id" => cpus.thread = Some(number(key, value)?),
                key => {
                    let names = ["node-id", "socket-id", "core-id", "thread-id"];
                    return Err(unknown(key, &names));
                }
            }
        }
        cpus.node = node.ok_or("node-id= is missing")?;
        self.cpus.push(cpus);
        Ok(())
    }
}

/// `N` or `FIRST-LAST`.
fn cpu_range(value: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let range = number("cpus", first)?..=number("cpus", last)?;
    match range.is_empty() {
        true => Err(format!("cpus={value}: the last is before the first")),
        false => Ok(range),
    }
}

/// Makes the machine's nodes; returns their memory backends.
pub(super) fn resolve(options: &mut Options) -> Result<Vec<MemoryBackend>, String> {
    let mut asked = std::mem::take(&mut options.numa);
    asked.nodes.sort_by_key(|n| n.id);
    let count = asked.nodes.len();
    if let Some(missing) = (0..count).find(|&id| asked.nodes[id].id != id) {
        return Err(format!(
            "-numa: there is no node {missing}, but a later one"
        ));
    }
    let named = asked.cpus.iter().map(|c| c.node);
    let mut named = named.chain(asked.distances.iter().flat_map(|d| [d.0, d.1]));
    if let Some(id) = named.find(|&id| id >= count) {
        return Err(format!("-numa: there is no node {id}"));
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    let cpus = place_cpus(&asked, &options.config.topology)?;
    let distances = fill_distances(&asked)?;
    let mut backends = Vec::new();
    let mut sizes = Vec::new();
    for node in &asked.nodes {
        sizes.push(match &node.memory {
            Memory::None => 0,
            Memory::Bytes(bytes) => *bytes,
            Memory::Backend(id) => {
                let backend = options.memory.take(id);
                let backend = backend.map_err(|why| format!("-numa node,memdev={id}: {why}"))?;
                backends.push(backend);
                backends.last().map_or(0, |b| b.size)
            }
        });
    }
    let mixed = |n: &Node| matches!(n.memory, Memory::Bytes(_));
    if !backends.is_empty() && asked.nodes.iter().any(mixed) {
        return Err("-numa: all nodes have mem=, or all have memdev=".into());
    }
    let total = sizes.iter().fold(0u64, |a, &b| a.saturating_add(b));
    if total != options.config.ram_bytes {
        return Err(format!(
            "-numa: the nodes have {}, -m is {}",
            size::show(total),
            size::show(options.config.ram_bytes)
        ));
    }
    options.config.numa = Numa {
        nodes: sizes,
        cpus,
        distances,
    };
    Ok(backends)
}

/// The node of each processor. Where nothing is said of any, sockets take
/// turns, as under QEMU; where only some are placed, the others are in node 0.
fn place_cpus(asked: &Asked, topology: &Topology) -> Result<Vec<u32>, String> {
    let vcpus = topology.vcpus();
    let mut placed: Vec<Option<u32>> = vec![None; vcpus as usize];
    let mut place = |cpu: u32, node: usize| {
        let slot = placed.get_mut(cpu as usize);
        let slot =
            slot.ok_or_else(|| format!("-numa: there is no CPU {cpu}, -smp says {vcpus}"))?;
        match slot.replace(node as u32) {
            Some(other) if other != node as u32 => {
                Err(format!("-numa: CPU {cpu} is in nodes {other} and {node}"))
            }
            _ => Ok(()),
        }
    };
    for node in &asked.nodes {
        let mut all = node.cpus.iter().cloned().flatten();
        all.try_for_each(|cpu| place(cpu, node.id))?;
    }
    for row in &asked.cpus {
        let mut found = false;
        for cpu in 0..vcpus {
            let thread = cpu % topology.threads;
            let core = cpu / topology.threads % topology.cores;
            let socket = cpu / topology.per_socket();
            let is = |asked: Option<u32>, id| asked.is_none_or(|a| a == id);
            if is(row.socket, socket) && is(row.core, core) && is(row.thread, thread) {
                place(cpu, row.node)?;
                found = true;
            }
        }
        if !found {
            return Err(format!("-numa cpu,node-id={}: no CPU is there", row.node));
        }
    }
    let count = asked.nodes.len() as u32;
    if placed.iter().all(Option::is_none) {
        let sockets = (0..vcpus).map(|cpu| cpu / topology.per_socket());
        return Ok(sockets.map(|socket| socket % count).collect());
    }
    let left: Vec<usize> = (0..placed.len()).filter(|&i| placed[i].is_none()).collect();
    if !left.is_empty() {
        log::warn!("-numa: CPUs {left:?} are in no node; they go to node 0");
    }
    Ok(placed.into_iter().map(Option::unwrap_or_default).collect())
}

/// The distances, with those back where only those there are given.
fn fill_distances(asked: &Asked) -> Result<Vec<Vec<u8>>, String> {
    let count = asked.nodes.len();
    if asked.distances.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows = vec![vec![0; count]; count];
    for &(src, dst, val) in &asked.distances {
        rows[src][dst] = val;
    }
    let given = rows.clone();
    for (src, row) in rows.iter_mut().enumerate() {
        for (dst, val) in row.iter_mut().enumerate() {
            match (*val, given[dst][src]) {
                _ if src == dst => *val = LOCAL,
                (0, 0) => {
                    return Err(format!(
                        "-numa: the distance between nodes {src} and {dst} is missing"
                    ));
                }
                (0, back) => *val = back,
                _ => {}
            }
        }
    }
    Ok(rows)
}
