//! `-object memory-backend-*`, `-mem-path`, `-mem-prealloc` and what
//! `-machine` says of memory.

use super::keyval::{self, on_off};
use super::parse::Options;
use super::size;
use crate::near::did_you_mean;
use machine::{MemoryBackend, MemorySource, Merge};
use std::path::PathBuf;

/// What the command line says of memory.
#[derive(Default)]
pub(crate) struct Memory {
    objects: Vec<Object>,
    /// `-machine memory-backend=`.
    chosen: Option<String>,
    /// `-mem-path`.
    path: Option<PathBuf>,
    /// `-mem-prealloc`.
    prealloc: bool,
    /// `-machine mem-merge=`.
    merge: Option<bool>,
    /// `-machine dump-guest-core=`.
    dump: Option<bool>,
    /// `-m` was given.
    pub(super) size_given: bool,
}

/// A memory backend and what was left to the machine's defaults.
struct Object {
    backend: MemoryBackend,
    merge: Option<bool>,
    dump: Option<bool>,
    prealloc: Option<bool>,
    used: bool,
}

/// Kinds of backends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ram,
    File,
    Memfd,
}

const KINDS: [(&str, Kind); 3] = [
    ("memory-backend-ram", Kind::Ram),
    ("memory-backend-file", Kind::File),
    ("memory-backend-memfd", Kind::Memfd),
];

type Set = fn(&mut Object, &str) -> Result<(), String>;

/// A property, and who has it (all, if none is named).
struct Property {
    name: &'static str,
    /// As `-object TYPE,help` shows it: type and meaning.
    help: &'static str,
    of: &'static [Kind],
    set: Set,
}

const fn property(
    name: &'static str,
    help: &'static str,
    of: &'static [Kind],
    set: Set,
) -> Property {
    Property {
        name,
        help,
        of,
        set,
    }
}

/// A property that must be off.
fn only_off(value: &str, why: &str) -> Result<(), String> {
    match on_off(value)? {
        false => Ok(()),
        true => Err(why.into()),
    }
}

const PROPERTIES: [Property; 19] = [
    property("id", "<str> - its name", &[], |o, v| {
        o.backend.id = keyval::id(v)?;
        Ok(())
    }),
    property("size", "<size> - its size", &[], |o, v| {
        o.backend.size = size::parse(v, 0)?;
        Ok(())
    }),
    property(
        "share",
        "<bool> - writes reach the file or memfd (default: off, memfd: on)",
        &[],
        |o, v| {
            o.backend.share = on_off(v)?;
            Ok(())
        },
    ),
    property(
        "prealloc",
        "<bool> - take it from the host at the start (default: off)",
        &[],
        |o, v| {
            o.prealloc = Some(on_off(v)?);
            Ok(())
        },
    ),
    property(
        "reserve",
        "<bool> - the host must have as much (default: off)",
        &[],
        |o, v| {
            o.backend.reserve = on_off(v)?;
            Ok(())
        },
    ),
    property(
        "merge",
        "<bool> - offer it to KSM; anonymous memory only (default: by -machine mem-merge)",
        &[],
        |o, v| {
            o.merge = Some(on_off(v)?);
            Ok(())
        },
    ),
    property(
        "dump",
        "<bool> - it is in core dumps (default: by -machine dump-guest-core)",
        &[],
        |o, v| {
            o.dump = Some(on_off(v)?);
            Ok(())
        },
    ),
    property(
        "prealloc-threads",
        "<int> - 1: one thread does it",
        &[],
        |_, v| match v {
            "1" => Ok(()),
            _ => Err("one thread does it".into()),
        },
    ),
    property("host-nodes", "<int> - not supported", &[], |_, _| {
        Err("memory is not bound to nodes of the host".into())
    }),
    property("policy", "<str> - default", &[], |_, v| match v {
        "default" => Ok(()),
        _ => Err("memory is not bound to nodes of the host".into()),
    }),
    property(
        "mem-path",
        "<str> - a file, made if it is missing, or a folder",
        &[Kind::File],
        |o, v| {
            if v.is_empty() {
                return Err("a file or folder is missing".into());
            }
            if let MemorySource::File { path, .. } = &mut o.backend.source {
                *path = PathBuf::from(v);
            }
            Ok(())
        },
    ),
    property(
        "offset",
        "<size> - where in the file it begins (default: 0)",
        &[Kind::File],
        |o, v| {
            let at = size::parse(v, 0)?;
            if let MemorySource::File { offset, .. } = &mut o.backend.source {
                *offset = at;
            }
            Ok(())
        },
    ),
    property(
        "discard-data",
        "<bool> - off: what is in the file stays",
        &[Kind::File],
        |_, v| only_off(v, "what is in the file stays there"),
    ),
    property(
        "pmem",
        "<bool> - off: there is no persistent memory",
        &[Kind::File],
        |_, v| only_off(v, "there is no persistent memory"),
    ),
    property(
        "readonly",
        "<bool> - off: the file is opened for writing",
        &[Kind::File],
        |_, v| only_off(v, "the file is opened for writing"),
    ),
    property(
        "rom",
        "<OnOffAuto> - off or auto: guest RAM is writable",
        &[Kind::File],
        |_, v| match v {
            "auto" => Ok(()),
            v => only_off(v, "guest RAM is writable"),
        },
    ),
    property(
        "hugetlb",
        "<bool> - huge pages (default: off)",
        &[Kind::Memfd],
        |o, v| {
            let on = on_off(v)?;
            if let MemorySource::Memfd { huge, .. } = &mut o.backend.source {
                *huge = on.then(|| huge.unwrap_or(0));
            }
            Ok(())
        },
    ),
    property(
        "hugetlbsize",
        "<size> - of a huge page, after hugetlb=on (default: the host's)",
        &[Kind::Memfd],
        |o, v| {
            let bytes = size::parse(v, 0)?;
            if !bytes.is_power_of_two() {
                return Err("the size of a page is a power of two".into());
            }
            match &mut o.backend.source {
                MemorySource::Memfd {
                    huge: Some(huge), ..
                } => *huge = bytes,
                _ => return Err("hugetlb=on must come before it".into()),
            }
            Ok(())
        },
    ),
    property(
        "seal",
        "<bool> - its size is sealed (default: on)",
        &[Kind::Memfd],
        |o, v| {
            let on = on_off(v)?;
            if let MemorySource::Memfd { seal, .. } = &mut o.backend.source {
                *seal = on;
            }
            Ok(())
        },
    ),
];

impl Kind {
    /// A backend with QEMU's defaults.
    fn backend(self) -> MemoryBackend {
        let source = match self {
            Self::Ram => MemorySource::Anonymous,
            Self::File => MemorySource::File {
                path: PathBuf::new(),
                offset: 0,
            },
            Self::Memfd => MemorySource::Memfd {
                huge: None,
                seal: true,
            },
        };
        MemoryBackend {
            source,
            share: self == Self::Memfd,
            ..MemoryBackend::anonymous("", 0)
        }
    }

    fn properties(self) -> impl Iterator<Item = &'static Property> {
        let has = move |p: &&Property| p.of.is_empty() || p.of.contains(&self);
        PROPERTIES.iter().filter(has)
    }
}

/// The kinds, and others that are not memory.
fn kinds(others: &[&str]) -> String {
    let names = KINDS.iter().map(|(name, _)| name).chain(others);
    names.map(|name| format!("  {name}\n")).collect()
}

/// `-object`; the others are not here.
pub(super) fn object(options: &mut Options, value: &str, others: &[&str]) -> Result<(), String> {
    let mut words = keyval::parse(value).into_iter();
    let name = match words.next() {
        Some((word, None)) if matches!(&*word, "help" | "?") => {
            let text = format!("List of user creatable objects:\n{}", kinds(others));
            options.print.get_or_insert(text);
            return Ok(());
        }
        Some((word, None)) => word,
        Some((key, Some(name))) if key == "qom-type" => name,
        _ => return Err("the type comes first, such as memory-backend-ram".into()),
    };
    let kind = KINDS.iter().find(|(n, _)| *n == name).ok_or_else(|| {
        let near = did_you_mean(
            &name,
            KINDS.iter().map(|k| k.0).chain(others.iter().copied()),
        );
        format!("object '{name}' is not supported{near}; -object help lists what there is")
    })?;
    let kind = kind.1;
    let mut object = Object {
        backend: kind.backend(),
        merge: None,
        dump: None,
        prealloc: None,
        used: false,
    };
    for (key, value) in words {
        if matches!(&*key, "help" | "?") && value.is_none() {
            let rows = kind
                .properties()
                .map(|p| format!("  {}={}\n", p.name, p.help));
            let text = format!("{name} options:\n{}", rows.collect::<String>());
            options.print.get_or_insert(text);
            return Ok(());
        }
        let row = kind.properties().find(|p| p.name == key).ok_or_else(|| {
            let near = did_you_mean(&key, kind.properties().map(|p| p.name));
            let names: Vec<_> = kind.properties().map(|p| p.name).collect();
            let names = names.join(", ");
            format!("{name} has no property '{key}'{near}; there are {names}")
        })?;
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        (row.set)(&mut object, &value).map_err(|why| format!("{key}={value}: {why}"))?;
    }
    check(&object, &name)?;
    let (objects, id) = (&mut options.memory.objects, &object.backend.id);
    if objects.iter().any(|o| o.backend.id == *id) {
        return Err(format!("two objects have the id '{id}'"));
    }
    objects.push(object);
    Ok(())
}

/// What must be there, and what does not go together.
fn check(object: &Object, name: &str) -> Result<(), String> {
    let backend = &object.backend;
    if backend.id.is_empty() {
        return Err("id= is missing".into());
    }
    if backend.size == 0 {
        return Err("size= is missing or 0".into());
    }
    if let MemorySource::File { path, .. } = &backend.source
        && path.as_os_str().is_empty()
    {
        return Err("mem-path= is missing".into());
    }
    if object.merge == Some(true) && !backend.can_merge() {
        let shared = if backend.share { ",share=on" } else { "" };
        return Err(format!(
            "merge=on: only anonymous memory of one's own can be merged, not {name}{shared}"
        ));
    }
    Ok(())
}

/// `-mem-path`.
pub(super) fn path(options: &mut Options, value: &str) -> Result<(), String> {
    match value {
        "" => Err("a file or folder is missing".into()),
        path => {
            options.memory.path = Some(PathBuf::from(path));
            Ok(())
        }
    }
}

/// `-mem-prealloc`.
pub(super) fn prealloc(options: &mut Options, _: &str) -> Result<(), String> {
    options.memory.prealloc = true;
    Ok(())
}

/// Properties of `-machine`.
pub(super) const MACHINE_PROPERTIES: [(&str, &str); 3] = [
    (
        "memory-backend",
        "<str> - id of the -object that is the RAM",
    ),
    (
        "mem-merge",
        "<bool> - offer anonymous RAM to KSM (default: on)",
    ),
    (
        "dump-guest-core",
        "<bool> - RAM is in core dumps (default: on)",
    ),
];

/// Takes a property of `-machine`; false if it is none of memory's.
pub(super) fn machine(options: &mut Options, key: &str, value: &str) -> Result<bool, String> {
    let memory = &mut options.memory;
    match key {
        "memory-backend" => memory.chosen = Some(value.into()),
        "mem-merge" => memory.merge = Some(on_off(value)?),
        "dump-guest-core" => memory.dump = Some(on_off(value)?),
        _ => return Ok(false),
    }
    Ok(true)
}

impl Memory {
    /// Takes a backend by its name, with the machine's defaults for what it
    /// leaves open.
    pub(super) fn take(&mut self, id: &str) -> Result<MemoryBackend, String> {
        let near = did_you_mean(id, self.objects.iter().map(|o| &*o.backend.id));
        let found = self.objects.iter_mut().find(|o| o.backend.id == id);
        let object = found.ok_or_else(|| format!("there is no memory backend '{id}'{near}"))?;
        if std::mem::replace(&mut object.used, true) {
            return Err(format!("memory backend '{id}' is in use"));
        }
        let mut backend = object.backend.clone();
        let (merge, dump, prealloc) = (object.merge, object.dump, object.prealloc);
        self.defaults(&mut backend, merge, dump, prealloc);
        Ok(backend)
    }

    fn defaults(
        &self,
        backend: &mut MemoryBackend,
        merge: Option<bool>,
        dump: Option<bool>,
        prealloc: Option<bool>,
    ) {
        backend.merge = match (merge, self.merge) {
            (Some(true), _) => Merge::On,
            (Some(false), _) | (None, Some(false)) => Merge::Off,
            (None, _) => Merge::IfPossible,
        };
        backend.dump = dump.or(self.dump).unwrap_or(true);
        backend.prealloc = prealloc.unwrap_or(self.prealloc);
    }

    /// What the whole RAM is made of if no backends were named.
    fn whole(&self, size: u64) -> Result<MemoryBackend, String> {
        let mut backend = MemoryBackend::anonymous("ram", size);
        if let Some(path) = &self.path {
            if self.merge == Some(true) {
                return Err("-machine mem-merge=on: memory of -mem-path cannot be merged".into());
            }
            backend.source = MemorySource::File {
                path: path.clone(),
                offset: 0,
            };
        }
        self.defaults(&mut backend, None, None, None);
        Ok(backend)
    }
}

/// Decides what the RAM is made of: `nodes` are the backends of NUMA nodes, if
/// those have any.
pub(super) fn resolve(options: &mut Options, nodes: Vec<MemoryBackend>) -> Result<(), String> {
    let (memory, config) = (&mut options.memory, &mut options.config);
    if memory.path.is_some() && (memory.chosen.is_some() || !nodes.is_empty()) {
        return Err("-mem-path: the machine's memory is a backend's already".into());
    }
    if memory.chosen.is_some() && !nodes.is_empty() {
        return Err("-machine memory-backend=: the NUMA nodes have backends".into());
    }
    let chosen = memory.chosen.take();
    config.memory = match &chosen {
        Some(id) => vec![
            memory
                .take(id)
                .map_err(|why| format!("-machine memory-backend={id}: {why}"))?,
        ],
        None if !nodes.is_empty() => nodes,
        None => vec![memory.whole(config.ram_bytes)?],
    };
    let sizes = config.memory.iter().map(|b| b.size);
    let total = sizes.fold(0u64, u64::saturating_add);
    if chosen.is_some() && !memory.size_given {
        config.ram_bytes = total;
    }
    if total != config.ram_bytes {
        return Err(format!(
            "-m: the machine has {}, its memory backends {}",
            size::show(config.ram_bytes),
            size::show(total)
        ));
    }
    match memory.objects.iter().find(|o| !o.used) {
        Some(object) => {
            let id = &object.backend.id;
            Err(format!(
                "-object: nothing uses memory backend '{id}'; \
                 -machine memory-backend={id} or -numa node,memdev={id} would"
            ))
        }
        None => Ok(()),
    }
}
