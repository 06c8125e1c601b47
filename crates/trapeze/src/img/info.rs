//! `img info`.

use super::getopt::Parsed;
use super::images::{Opening, Use, one_file, wants_json};
use super::json::Json;
use super::snapshot::{listing, snapshots_json};
use super::table::Outcome;
use super::{Tool, sizes};
use disk::qcow2::{Facts, Snapshot};
use disk::{Image, ImageName, MAX_CHAIN, Storage};
use std::fmt::Write;

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let json = wants_json(parsed)?;
    let name = one_file(parsed)?;
    let chain = parsed.has("backing-chain");
    let nodes = collect(tool, parsed, name, chain)?;
    if json {
        let mut list: Vec<Json> = nodes.iter().map(Node::json).collect();
        let whole = match chain {
            true => Json::List(list),
            false => list.remove(0),
        };
        println!("{}", whole.pretty());
    } else {
        let texts: Vec<String> = nodes.iter().map(Node::text).collect();
        print!("{}", texts.join("\n"));
    }
    Ok(0)
}

/// What is said of one image.
struct Node {
    name: String,
    format: &'static str,
    virtual_size: u64,
    disk_size: u64,
    file_size: u64,
    facts: Option<Facts>,
    snapshots: Vec<Snapshot>,
    backing: Option<(String, Option<String>)>,
    /// The backing file's path.
    full_backing: Option<String>,
}

fn collect(tool: &Tool, parsed: &Parsed, name: &str, chain: bool) -> Result<Vec<Node>, String> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut next = Some((name.to_string(), parsed.value("format").map(String::from)));
    while let Some((name, format)) = next.take() {
        let looped = nodes.iter().any(|n| n.name == name);
        if looped || nodes.len() > MAX_CHAIN {
            return Err(format!("Backing file '{name}' creates an infinite loop."));
        }
        let opening = Opening {
            format: format.as_deref(),
            ..Opening::of(Use::Inspect, parsed)
        };
        let image = tool.open(&name, &opening)?;
        let node = describe(&image)?;
        if chain && let Some(full) = &node.full_backing {
            let format = node.backing.as_ref().and_then(|(_, f)| f.clone());
            next = Some((full.clone(), format));
        }
        nodes.push(node);
    }
    Ok(nodes)
}

fn describe(image: &Image) -> Result<Node, String> {
    let text = |e: disk::Errno| e.to_string();
    let full_backing = match image.backing_name() {
        None => None,
        Some(backing) => {
            let name = ImageName::parse_backing(&backing.name, image.path());
            let name = name.map_err(|e| e.to_string())?;
            Some(match name.described {
                true => backing.name.clone(),
                false => name.path.display().to_string(),
            })
        }
    };
    Ok(Node {
        name: image.path().display().to_string(),
        format: image.format().name(),
        virtual_size: image.device().len(),
        disk_size: image.file().space_used().map_err(text)?,
        file_size: image.file().length().map_err(text)?,
        facts: image.qcow2().map(|q| q.facts()),
        snapshots: match image.qcow2() {
            Some(q) => q.snapshots().map_err(|e| e.to_string())?,
            None => Vec::new(),
        },
        backing: image
            .backing_name()
            .map(|b| (b.name.clone(), b.format.clone())),
        full_backing,
    })
}

fn word(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

impl Node {
    fn text(&self) -> String {
        let mut out = String::new();
        let size = |n: u64| format!("{} ({n} bytes)", sizes::show(n));
        let _ = writeln!(out, "image: {}", self.name);
        let _ = writeln!(out, "file format: {}", self.format);
        let _ = writeln!(out, "virtual size: {}", size(self.virtual_size));
        let _ = writeln!(out, "disk size: {}", sizes::show(self.disk_size));
        if let Some(facts) = &self.facts {
            let _ = writeln!(out, "cluster_size: {}", facts.cluster_size);
            if facts.dirty {
                let _ = writeln!(out, "cleanly shut down: no");
            }
        }
        if let Some((name, format)) = &self.backing {
            let actual = match &self.full_backing {
                Some(full) if full != name => format!(" (actual path: {full})"),
                _ => String::new(),
            };
            let _ = writeln!(out, "backing file: {name}{actual}");
            if let Some(format) = format {
                let _ = writeln!(out, "backing file format: {format}");
            }
        }
        if !self.snapshots.is_empty() {
            out.push_str(&listing(&self.snapshots));
        }
        if let Some(facts) = &self.facts {
            out.push_str(&specific(facts));
        }
        let _ = writeln!(out, "Child node '/file':");
        let _ = writeln!(out, "    filename: {}", self.name);
        let _ = writeln!(out, "    protocol type: file");
        let _ = writeln!(out, "    file length: {}", size(self.file_size));
        let _ = writeln!(out, "    disk size: {}", sizes::show(self.disk_size));
        out
    }

    fn json(&self) -> Json {
        let child = Json::Object(vec![
            ("children", Json::List(Vec::new())),
            ("virtual-size", self.file_size.into()),
            ("filename", self.name.as_str().into()),
            ("format", "file".into()),
            ("actual-size", self.disk_size.into()),
            (
                "format-specific",
                Json::Object(vec![
                    ("type", "file".into()),
                    ("data", Json::Object(Vec::new())),
                ]),
            ),
            ("dirty-flag", false.into()),
        ]);
        let child = Json::Object(vec![("name", "file".into()), ("info", child)]);
        let mut fields = vec![("children", Json::List(vec![child]))];
        if !self.snapshots.is_empty() {
            fields.push(("snapshots", snapshots_json(&self.snapshots)));
        }
        if let Some((_, Some(format))) = &self.backing {
            fields.push(("backing-filename-format", format.as_str().into()));
        }
        fields.push(("virtual-size", self.virtual_size.into()));
        fields.push(("filename", self.name.as_str().into()));
        if let Some(facts) = &self.facts {
            fields.push(("cluster-size", facts.cluster_size.into()));
        }
        fields.push(("format", self.format.into()));
        fields.push(("actual-size", self.disk_size.into()));
        if let Some(facts) = &self.facts {
            fields.push(("format-specific", specific_json(facts)));
        }
        if let (Some((name, _)), Some(full)) = (&self.backing, &self.full_backing) {
            fields.push(("full-backing-filename", full.as_str().into()));
            fields.push(("backing-filename", name.as_str().into()));
        }
        let dirty = self.facts.is_some_and(|f| f.dirty);
        fields.push(("dirty-flag", dirty.into()));
        Json::Object(fields)
    }
}

fn compat(facts: &Facts) -> &'static str {
    if facts.version < 3 { "0.10" } else { "1.1" }
}

fn specific(facts: &Facts) -> String {
    let mut out = String::from("Format specific information:\n");
    let _ = writeln!(out, "    compat: {}", compat(facts));
    let _ = writeln!(out, "    compression type: zlib");
    if facts.version >= 3 {
        let _ = writeln!(out, "    lazy refcounts: {}", word(facts.lazy_refcounts));
    }
    let _ = writeln!(out, "    refcount bits: {}", facts.refcount_bits);
    if facts.version >= 3 {
        let _ = writeln!(out, "    corrupt: {}", word(facts.corrupt));
        let _ = writeln!(out, "    extended l2: false");
    }
    out
}

fn specific_json(facts: &Facts) -> Json {
    let mut data = vec![
        ("compat", compat(facts).into()),
        ("compression-type", "zlib".into()),
    ];
    if facts.version >= 3 {
        data.push(("lazy-refcounts", facts.lazy_refcounts.into()));
    }
    data.push(("refcount-bits", u64::from(facts.refcount_bits).into()));
    if facts.version >= 3 {
        data.push(("corrupt", facts.corrupt.into()));
        data.push(("extended-l2", false.into()));
    }
    Json::Object(vec![("type", "qcow2".into()), ("data", Json::Object(data))])
}
