//! `-blockdev`: images as nodes, `file` below `raw` or `qcow2`.

use super::keyval::{self, on_off};
use super::parse::Options;
use crate::near::did_you_mean;
use disk::{CacheMode, DiskOptions, Format};
use machine::DriveConfig;
use serde_json::Value;

/// A node as the command line describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    name: String,
    driver: Option<Driver>,
    /// For `file`.
    filename: Option<String>,
    /// For formats: the node below, by name or described in place.
    below: Option<Below>,
    direct: Option<bool>,
    no_flush: Option<bool>,
    read_only: Option<bool>,
    discard: Option<bool>,
}

#[derive(Clone, Debug)]
enum Below {
    Named(String),
    Nested(Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    File,
    Format(Format),
}

impl Driver {
    const NAMES: [&str; 3] = ["file", "raw", "qcow2"];

    fn by_name(name: &str) -> Result<Self, String> {
        let format = || Format::by_name(name).map(Self::Format);
        let driver = if name == "file" {
            Some(Self::File)
        } else {
            format()
        };
        driver.ok_or_else(|| {
            let near = did_you_mean(name, Self::NAMES.into_iter());
            format!("Unknown driver '{name}'{near}; there are file, raw and qcow2")
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Format(format) => format.name(),
        }
    }
}

/// One property.
struct Property {
    name: &'static str,
    /// Drivers that have it.
    of: Of,
    apply: fn(&mut Node, &str) -> Result<(), String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    All,
    File,
    Formats,
}

const fn property(
    name: &'static str,
    of: Of,
    apply: fn(&mut Node, &str) -> Result<(), String>,
) -> Property {
    Property { name, of, apply }
}

/// `aio` and `locking` have the one value that is in effect anyway;
/// `auto-read-only` changes nothing, since images are opened as `read-only`
/// says.
const PROPERTIES: [Property; 12] = [
    property("driver", Of::All, |n, v| {
        n.driver = Some(Driver::by_name(v)?);
        Ok(())
    }),
    property("node-name", Of::All, |n, v| {
        n.name = v.into();
        Ok(())
    }),
    property("filename", Of::File, |n, v| {
        n.filename = Some(v.into());
        Ok(())
    }),
    property("file", Of::Formats, |n, v| {
        n.below = Some(Below::Named(v.into()));
        Ok(())
    }),
    property("cache.direct", Of::All, |n, v| {
        n.direct = Some(on_off(v)?);
        Ok(())
    }),
    property("cache.no-flush", Of::All, |n, v| {
        n.no_flush = Some(on_off(v)?);
        Ok(())
    }),
    property("read-only", Of::All, |n, v| {
        n.read_only = Some(on_off(v)?);
        Ok(())
    }),
    property("auto-read-only", Of::All, |_, v| on_off(v).map(drop)),
    property("discard", Of::All, |n, v| {
        n.discard = Some(match v {
            "unmap" | "on" => true,
            "ignore" | "off" => false,
            _ => return Err("takes unmap or ignore".into()),
        });
        Ok(())
    }),
    property("detect-zeroes", Of::All, |_, v| {
        only("off", v, "zeroes are not detected")
    }),
    property("aio", Of::File, |_, v| {
        only("threads", v, "there is threads")
    }),
    property("locking", Of::File, |_, v| {
        only("auto", v, "files are always locked")
    }),
];

fn only(there_is: &str, value: &str, why: &str) -> Result<(), String> {
    match value == there_is {
        true => Ok(()),
        false => Err(format!("is not supported: {why}")),
    }
}

/// `-blockdev`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let pairs = match value.starts_with('{') {
        true => from_json(value)?,
        false => from_words(value)?,
    };
    let node = node(pairs)?;
    match &*node.name {
        "" => return Err("node-name= is missing: nothing could refer to it".into()),
        name if options.nodes.iter().any(|n| n.name == name) => {
            return Err(format!("Duplicate nodes with node-name='{name}'"));
        }
        _ => options.nodes.push(node),
    }
    Ok(())
}

fn from_words(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = keyval::parse(text).into_iter().enumerate();
    words
        .map(|(at, (key, value))| match value {
            Some(value) => Ok((key, value)),
            // The first word may leave its key out.
            None if at == 0 => Ok(("driver".into(), key)),
            None => Err(format!("{key}= needs a value")),
        })
        .collect()
}

/// Keys of nested objects are joined with dots, as words write them.
fn from_json(text: &str) -> Result<Vec<(String, String)>, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("invalid JSON: {e}"))?;
    let mut pairs = Vec::new();
    flatten("", &value, &mut pairs)?;
    Ok(pairs)
}

fn flatten(key: &str, value: &Value, pairs: &mut Vec<(String, String)>) -> Result<(), String> {
    let text = match value {
        Value::Object(members) => {
            for (name, value) in members {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                flatten(&key, value, pairs)?;
            }
            return Ok(());
        }
        Value::String(text) => text.clone(),
        Value::Bool(on) => if *on { "on" } else { "off" }.into(),
        Value::Number(number) => number.to_string(),
        _ => return Err(format!("{key}: takes a string, a number or a boolean")),
    };
    pairs.push((key.into(), text));
    Ok(())
}

/// The node that properties describe; those of `file.` are the one below.
fn node(pairs: Vec<(String, String)>) -> Result<Node, String> {
    let (below, own): (Vec<_>, Vec<_>) = pairs
        .into_iter()
        .partition(|(key, _)| key.starts_with("file."));
    let mut node = Node::default();
    let mut seen: Vec<&Property> = Vec::new();
    for (key, value) in &own {
        let row = PROPERTIES.iter().find(|p| p.name == key).ok_or_else(|| {
            let near = did_you_mean(key, PROPERTIES.iter().map(|p| p.name));
            let all: Vec<_> = PROPERTIES.iter().map(|p| p.name).collect();
            let all = all.join(", ");
            format!("property '{key}' is not supported{near}; there are {all}")
        })?;
        (row.apply)(&mut node, value).map_err(|why| format!("{key}={value}: {why}"))?;
        seen.push(row);
    }
    let driver = node.driver.ok_or("driver= is missing")?;
    let wrong = match driver {
        Driver::File => Of::Formats,
        Driver::Format(_) => Of::File,
    };
    let name = driver.name();
    if let Some(row) = seen.iter().find(|p| p.of == wrong) {
        return Err(format!("driver={name} has no property '{}'", row.name));
    }
    if !below.is_empty() {
        nest(&mut node, driver, below)?;
    }
    let lacks = match driver {
        Driver::File => node.filename.is_none().then_some("filename"),
        Driver::Format(_) => node.below.is_none().then_some("file"),
    };
    match lacks {
        Some(what) => Err(format!("driver={name}: {what}= is missing")),
        None => Ok(node),
    }
}

fn nest(node: &mut Node, driver: Driver, below: Vec<(String, String)>) -> Result<(), String> {
    if driver == Driver::File || node.below.is_some() {
        return Err(format!("{}= says it twice or has no place", below[0].0));
    }
    let strip = |(key, value): (String, String)| (key["file.".len()..].to_string(), value);
    let nested = self::node(below.into_iter().map(strip).collect());
    let nested = nested.map_err(|why| format!("file: {why}"))?;
    node.below = Some(Below::Nested(Box::new(nested)));
    Ok(())
}

/// Makes drives of the nodes that no other one is above of.
pub(super) fn resolve(options: &mut Options) -> Result<(), String> {
    let nodes = std::mem::take(&mut options.nodes);
    for node in &nodes {
        let above = |n: &Node| matches!(&n.below, Some(Below::Named(b)) if *b == node.name);
        match nodes.iter().filter(|n| above(n)).count() {
            0 => {}
            1 => continue,
            _ => return Err(format!("-blockdev: two nodes use '{}'", node.name)),
        }
        if options.config.drives.iter().any(|d| d.id == node.name) {
            return Err(format!("-blockdev: '{}' is the id of a drive", node.name));
        }
        let drive = drive(node, &nodes).map_err(|why| format!("-blockdev {}: {why}", node.name))?;
        options.config.drives.push(drive);
    }
    Ok(())
}

fn drive(node: &Node, nodes: &[Node]) -> Result<DriveConfig, String> {
    let (format, file) = match (&node.driver, &node.below) {
        (Some(Driver::Format(format)), Some(Below::Nested(file))) => (*format, &**file),
        (Some(Driver::Format(format)), Some(Below::Named(name))) => {
            let found = nodes.iter().find(|n| n.name == *name).ok_or_else(|| {
                let near = did_you_mean(name, nodes.iter().map(|n| &*n.name));
                format!("Cannot find device='' nor node-name='{name}'{near}")
            })?;
            (*format, found)
        }
        _ => (Format::Raw, node),
    };
    let Some(filename) = &file.filename else {
        return Err(format!("file={}: is not driver=file", file.name));
    };
    let cache = |of: fn(&Node) -> Option<bool>| of(file).or(of(node)).unwrap_or(false);
    let cache = match (cache(|n| n.direct), cache(|n| n.no_flush)) {
        (false, false) => CacheMode::Writeback,
        (true, false) => CacheMode::None,
        (false, true) => CacheMode::Unsafe,
        (true, true) => {
            return Err("cache.direct=on with cache.no-flush=on is not supported".into());
        }
    };
    let unmap = |n: &Node| n.discard.unwrap_or(false);
    Ok(DriveConfig {
        id: node.name.clone(),
        file: filename.clone(),
        snapshot: false,
        options: DiskOptions {
            format: Some(format),
            read_only: node.read_only.or(file.read_only).unwrap_or(false),
            cache,
            // Clusters are freed by the format, ranges of a raw file by both.
            discard: unmap(node) && (format == Format::Qcow2 || unmap(file)),
            ..DiskOptions::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::Personality;
    use super::*;

    fn drives(values: &[&str]) -> Result<Vec<DriveConfig>, String> {
        let mut options = Options::new(Personality::Trapeze);
        for value in values {
            apply(&mut options, value)?;
        }
        resolve(&mut options)?;
        Ok(options.config.drives)
    }

    #[test]
    fn the_ways_to_say_the_same() {
        let named = [
            "driver=file,node-name=f,filename=a,,b.img,cache.direct=on,discard=unmap",
            "node-name=d,driver=raw,file=f,discard=unmap,read-only=on",
        ];
        let nested = ["raw,node-name=d,file.driver=file,file.filename=a,,b.img,\
                       file.cache.direct=on,file.discard=unmap,discard=unmap,read-only=on"];
        let json = [
            r#"{"driver":"raw","node-name":"d","read-only":true,"discard":"unmap",
            "file":{"driver":"file","filename":"a,b.img","discard":"unmap",
                    "cache":{"direct":true,"no-flush":false}}}"#,
        ];
        for values in [&named[..], &nested, &json] {
            let drives = drives(values).unwrap();
            assert_eq!(drives.len(), 1, "{values:?}");
            let DriveConfig {
                id, file, options, ..
            } = &drives[0];
            assert_eq!((&**id, &**file), ("d", "a,b.img"));
            assert_eq!(options.format, Some(Format::Raw));
            assert_eq!(options.cache, CacheMode::None);
            assert!(options.discard && options.read_only);
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let file = "driver=file,node-name=f,filename=x";
        let cases: [(&[&str], &str); 12] = [
            (&["driver=file,filename=x"], "node-name= is missing"),
            (&["node-name=a,filename=x"], "driver= is missing"),
            (&["driver=qcow,node-name=a"], "'qcow'; did you mean 'qcow2'"),
            (&["driver=file,node-name=a"], "filename= is missing"),
            (&["driver=raw,node-name=a"], "file= is missing"),
            (
                &["driver=raw,node-name=a,filename=x"],
                "no property 'filename'",
            ),
            (&[file, file], "Duplicate nodes with node-name='f'"),
            (
                &[file, "raw,node-name=a,file=g"],
                "node-name='g'; did you mean",
            ),
            (
                &[file, "raw,node-name=a,file=f", "raw,node-name=b,file=f"],
                "two nodes use 'f'",
            ),
            (
                &["file,node-name=a,filename=x,cache.driect=on"],
                "'cache.direct'",
            ),
            (&["file,node-name=a,filename=x,aio=native"], "aio=native"),
            (&["{\"driver\":"], "invalid JSON"),
        ];
        for (values, expected) in cases {
            let why = drives(values).map(|d| d.len()).unwrap_err();
            assert!(why.contains(expected), "{values:?}: {why}");
        }
    }
}
