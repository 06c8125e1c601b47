//! `-blockdev`: images as nodes, `file` below `raw` or `qcow2`.

use super::keyval::{self, on_off};
use super::parse::Options;
use crate::near::did_you_mean;
use disk::{CacheMode, DiskOptions, Format};
use machine::DriveConfig;
use serde_json::{Value, json};

/// A node as the command line describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    name: String,
    driver: Option<Driver>,
    /// For `file`.
    filename: Option<String>,
    /// For formats: the node below, by name or described in place.
    below: Option<Below>,
    /// For qcow2, if it is not what the image says: the backing file.
    backing: Option<Below>,
    direct: Option<bool>,
    no_flush: Option<bool>,
    read_only: Option<bool>,
    discard: Option<bool>,
}

#[derive(Clone, Debug)]
enum Below {
    /// JSON's null: for `backing` only.
    Nothing,
    Named(String),
    Nested(Box<Node>),
}

/// Longest chain of backing files that nodes describe.
const MAX_CHAIN: usize = 200;

impl Below {
    fn is(&self, name: &str) -> bool {
        matches!(self, Self::Named(n) if n == name)
    }

    /// The node that is meant.
    fn node<'a>(&'a self, nodes: &'a [Node]) -> Result<Option<&'a Node>, String> {
        match self {
            Self::Nothing => Ok(None),
            Self::Nested(node) => Ok(Some(node)),
            Self::Named(name) => match nodes.iter().find(|n| n.name == *name) {
                Some(node) => Ok(Some(node)),
                None => {
                    let near = did_you_mean(name, nodes.iter().map(|n| &*n.name));
                    Err(format!(
                        "Cannot find device='' nor node-name='{name}'{near}"
                    ))
                }
            },
        }
    }
}

impl Node {
    /// Nodes it refers to, wherever in it they are said.
    fn refers_to(&self, name: &str) -> bool {
        [&self.below, &self.backing]
            .into_iter()
            .flatten()
            .any(|b| match b {
                Below::Nested(node) => node.refers_to(name),
                below => below.is(name),
            })
    }

    /// Its name and those of the nodes described in it.
    fn names(&self) -> Vec<&str> {
        let below = [&self.below, &self.backing].into_iter().flatten();
        let nested = below.filter_map(|b| match b {
            Below::Nested(node) => Some(node.names()),
            _ => None,
        });
        let own = vec![&*self.name];
        own.into_iter()
            .filter(|n| !n.is_empty())
            .chain(nested.flatten())
            .collect()
    }
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
    Qcow2,
}

impl Of {
    fn has(self, driver: Driver) -> bool {
        match self {
            Self::All => true,
            Self::File => driver == Driver::File,
            Self::Formats => driver != Driver::File,
            Self::Qcow2 => driver == Driver::Format(Format::Qcow2),
        }
    }
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
const PROPERTIES: [Property; 13] = [
    property("driver", Of::All, |n, v| {
        n.driver = Some(Driver::by_name(v)?);
        Ok(())
    }),
    property("node-name", Of::All, |n, v| {
        n.name = keyval::id(v)?;
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
    property("backing", Of::Qcow2, |n, v| {
        n.backing = Some(match v {
            "" => Below::Nothing,
            name => Below::Named(name.into()),
        });
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
        _ => options.nodes.push(node),
    }
    let mut names: Vec<&str> = options.nodes.iter().flat_map(Node::names).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("Duplicate nodes with node-name='{}'", pair[0])),
        None => Ok(()),
    }
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
        // The empty string is its other spelling.
        Value::Null if key.ends_with("backing") => String::new(),
        _ => return Err(format!("{key}: takes a string, a number or a boolean")),
    };
    pairs.push((key.into(), text));
    Ok(())
}

/// The node that properties describe; those of `file.` and `backing.` are of
/// the ones below.
fn node(pairs: Vec<(String, String)>) -> Result<Node, String> {
    let (file, rest) = take(pairs, "file.");
    let (backing, own) = take(rest, "backing.");
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
    let name = driver.name();
    if let Some(row) = seen.iter().find(|p| !p.of.has(driver)) {
        return Err(format!("driver={name} has no property '{}'", row.name));
    }
    nest(&mut node.below, Of::Formats.has(driver), "file.", file)?;
    nest(
        &mut node.backing,
        Of::Qcow2.has(driver),
        "backing.",
        backing,
    )?;
    let lacks = match driver {
        Driver::File => node.filename.is_none().then_some("filename"),
        Driver::Format(_) => node.below.is_none().then_some("file"),
    };
    match lacks {
        Some(what) => Err(format!("driver={name}: {what}= is missing")),
        None => Ok(node),
    }
}

type Pairs = Vec<(String, String)>;

/// The pairs whose keys begin with `prefix`, and the others.
fn take(pairs: Pairs, prefix: &str) -> (Pairs, Pairs) {
    pairs
        .into_iter()
        .partition(|(key, _)| key.starts_with(prefix))
}

/// Puts the node that `pairs` describe, if there are any, into its place.
fn nest(
    place: &mut Option<Below>,
    has_place: bool,
    prefix: &str,
    pairs: Pairs,
) -> Result<(), String> {
    let Some((first, _)) = pairs.first() else {
        return Ok(());
    };
    if !has_place || place.is_some() {
        return Err(format!("{first}= says it twice or has no place"));
    }
    let strip = |(key, value): (String, String)| (key[prefix.len()..].to_string(), value);
    let nested = node(pairs.into_iter().map(strip).collect());
    let nested = nested.map_err(|why| format!("{}: {why}", prefix.trim_end_matches('.')))?;
    *place = Some(Below::Nested(Box::new(nested)));
    Ok(())
}

/// Makes drives of the nodes that no other one is above of.
pub(super) fn resolve(options: &mut Options) -> Result<(), String> {
    let nodes = std::mem::take(&mut options.nodes);
    for node in &nodes {
        match nodes.iter().filter(|n| n.refers_to(&node.name)).count() {
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
    let (format, file) = format_and_file(node, nodes)?;
    let name = match &node.backing {
        None => filename(file)?.to_string(),
        Some(_) => format!("json:{}", described(node, nodes, (node, file), 0)?),
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
        file: name,
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

/// A node's format and the node of its file; a file by itself is raw.
fn format_and_file<'a>(node: &'a Node, nodes: &'a [Node]) -> Result<(Format, &'a Node), String> {
    match (node.driver, &node.below) {
        (Some(Driver::Format(format)), Some(below)) => {
            let file = below.node(nodes)?.ok_or("file= is missing")?;
            Ok((format, file))
        }
        _ => Ok((Format::Raw, node)),
    }
}

fn filename(file: &Node) -> Result<&str, String> {
    let name = file.filename.as_deref();
    name.ok_or_else(|| format!("file={}: is not driver=file", file.name))
}

/// A node and all that is below it, as `disk` takes it. `top` and its file say
/// how the host's caches are used, for the whole chain.
fn described(
    node: &Node,
    nodes: &[Node],
    top: (&Node, &Node),
    depth: usize,
) -> Result<Value, String> {
    if depth > MAX_CHAIN {
        return Err(format!("more than {MAX_CHAIN} backing files, or a loop"));
    }
    let (format, file) = format_and_file(node, nodes)?;
    for of in [|n: &Node| n.direct, |n: &Node| n.no_flush] {
        let above = of(top.1).or(of(top.0)).unwrap_or(false);
        if of(file).or(of(node)).is_some_and(|own| own != above) {
            let name = filename(file)?;
            return Err(format!(
                "'{name}': cache.*= must be as for the node above it"
            ));
        }
    }
    let mut value = json!({
        "driver": format.name(),
        "file": {"driver": "file", "filename": filename(file)?},
    });
    if let Some(backing) = &node.backing {
        value["backing"] = match backing.node(nodes)? {
            Some(below) => described(below, nodes, top, depth + 1)?,
            None => Value::Null,
        };
    }
    Ok(value)
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
    fn nodes_say_what_is_below_an_image() {
        let base = "file,node-name=b,filename=base.img";
        let named = [
            base,
            "qcow2,node-name=d,backing=b,file.driver=file,file.filename=d.img",
        ];
        let nested = ["qcow2,node-name=d,file.driver=file,file.filename=d.img,\
                       backing.driver=raw,backing.file.driver=file,\
                       backing.file.filename=base.img"];
        for values in [&named[..], &nested] {
            let drives = drives(values).unwrap();
            assert_eq!(drives.len(), 1, "{values:?}");
            let name = drives[0].file.strip_prefix("json:").unwrap();
            let name: Value = serde_json::from_str(name).unwrap();
            let file = |name| json!({"driver": "file", "filename": name});
            let below = json!({"driver": "raw", "file": file("base.img")});
            let whole = json!({"driver": "qcow2", "file": file("d.img"), "backing": below});
            assert_eq!(name, whole);
        }
        let none = r#"{"driver":"qcow2","node-name":"d","backing":null,
                       "file":{"driver":"file","filename":"d.img"}}"#;
        let drives = drives(&[none]).unwrap();
        assert!(
            drives[0].file.contains(r#""backing":null"#),
            "{}",
            drives[0].file
        );
    }

    #[test]
    fn what_cannot_be_is_named() {
        let file = "driver=file,node-name=f,filename=x";
        let cases: [(&[&str], &str); 17] = [
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
            (
                &["raw,node-name=a,backing=f,file=f"],
                "driver=raw has no property 'backing'",
            ),
            (
                &[file, "qcow2,node-name=a,file=f,backing=g"],
                "node-name='g'; did you mean",
            ),
            (
                &[
                    file,
                    "file,node-name=g,filename=y,cache.direct=on",
                    "qcow2,node-name=a,file=f,backing=g",
                ],
                "'y': cache.*= must be",
            ),
            (
                &[
                    file,
                    "qcow2,node-name=b,backing=b,file.driver=file,file.filename=x",
                    "qcow2,node-name=a,file=f,backing=b",
                ],
                "two nodes use 'b'",
            ),
            (
                &["raw,node-name=f,file.driver=file,file.filename=x,file.node-name=f"],
                "Duplicate nodes with node-name='f'",
            ),
        ];
        for (values, expected) in cases {
            let why = drives(values).map(|d| d.len()).unwrap_err();
            assert!(why.contains(expected), "{values:?}: {why}");
        }
    }
}
