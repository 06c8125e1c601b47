//! The options of the formats (`-o`), one row each.

use super::sizes;
use disk::qcow2::CreateOptions;
use disk::{Format, Preallocation};

/// What an option's value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Size,
    Number,
    Bool,
}

/// An option, in the order in which `create` prints them.
struct Row {
    name: &'static str,
    kind: Kind,
    /// The format that has it; all if `None`.
    format: Option<Format>,
    /// Value if none is given.
    default: Option<&'static str>,
    /// What it does; empty if it is refused unless it has its default.
    help: &'static str,
}

const fn row(
    name: &'static str,
    kind: Kind,
    format: Option<Format>,
    default: Option<&'static str>,
    help: &'static str,
) -> Row {
    Row {
        name,
        kind,
        format,
        default,
        help,
    }
}

const QCOW2: Option<Format> = Some(Format::Qcow2);
const RAW: Option<Format> = Some(Format::Raw);

#[rustfmt::skip]
const ROWS: [Row; 15] = [
    row("encryption", Kind::Bool, QCOW2, None, ""),
    row("cluster_size", Kind::Size, QCOW2, Some("65536"), "bytes per cluster, 512 to 2M"),
    row("extended_l2", Kind::Bool, QCOW2, Some("off"), ""),
    row("preallocation", Kind::Text, QCOW2, None, "off, metadata, falloc or full"),
    row("compression_type", Kind::Text, QCOW2, Some("zlib"), ""),
    row("size", Kind::Size, None, None, "size of the disk"),
    row("preallocation", Kind::Text, RAW, None, "off, falloc or full"),
    row("compat", Kind::Text, QCOW2, None, "version: v2 (0.10) or v3 (1.1)"),
    row("data_file", Kind::Text, QCOW2, None, ""),
    row("data_file_raw", Kind::Bool, QCOW2, None, ""),
    row("backing_file", Kind::Text, QCOW2, None, "the backing file"),
    row("backing_fmt", Kind::Text, QCOW2, None, "the backing file's format"),
    row("lazy_refcounts", Kind::Bool, QCOW2, Some("off"), "write refcounts late; a crash needs a repair"),
    row("refcount_bits", Kind::Number, QCOW2, Some("16"), "width of a refcount, 1 to 64"),
    row("nocow", Kind::Bool, None, None, ""),
];

/// Values of the options of one format.
pub(super) struct FormatOptions {
    format: Format,
    values: Vec<Option<String>>,
}

impl FormatOptions {
    /// No value given yet.
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            values: vec![None; ROWS.len()],
        }
    }

    fn index(&self, name: &str) -> Option<usize> {
        let fits = |r: &Row| r.name == name && r.format.is_none_or(|f| f == self.format);
        ROWS.iter().position(fits)
    }

    /// The value, or its default.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let index = self.index(name)?;
        self.values[index].as_deref().or(ROWS[index].default)
    }

    /// Sets one value.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let index = self
            .index(name)
            .ok_or_else(|| format!("Invalid parameter '{name}'"))?;
        let value = match ROWS[index].kind {
            Kind::Text => value.to_string(),
            Kind::Size => sizes::parse(value)
                .ok_or_else(|| sizes::expected(name))?
                .to_string(),
            Kind::Number => match value.parse::<u64>() {
                Ok(number) => number.to_string(),
                Err(_) => return Err(format!("Parameter '{name}' expects a number")),
            },
            Kind::Bool => match value {
                "on" | "off" => value.to_string(),
                "" => "on".to_string(),
                _ => return Err(format!("Parameter '{name}' expects 'on' or 'off'")),
            },
        };
        self.values[index] = Some(value);
        Ok(())
    }

    /// Sets the values of an `-o` argument: `name=value,...`, where `,,` is a
    /// comma.
    pub(super) fn parse(&mut self, text: &str) -> Result<(), String> {
        for item in split(text) {
            let (name, value) = item.split_once('=').unwrap_or((&item, ""));
            self.set(name, value)?;
        }
        Ok(())
    }

    /// ` name=value` for each value, as `create` prints them.
    pub(super) fn show(&self) -> String {
        let ours = ROWS
            .iter()
            .filter(|r| r.format.is_none_or(|f| f == self.format));
        let shown = ours.filter_map(|r| {
            let value = self.get(r.name)?;
            // Values with blanks could be taken for two options.
            Some(match value.contains([' ', '"', '\'']) {
                true => format!(" {}=\"{value}\"", r.name),
                false => format!(" {}={value}", r.name),
            })
        });
        shown.collect()
    }

    /// Refuses what we do not do.
    pub(super) fn refuse_unsupported(&self) -> Result<(), String> {
        for row in ROWS.iter().filter(|r| r.help.is_empty()) {
            match self.get(row.name) {
                None | Some("off") => {}
                value if value == row.default => {}
                Some(value) => {
                    return Err(format!(
                        "The option '{}={value}' is not supported",
                        row.name
                    ));
                }
            }
        }
        Ok(())
    }

    fn number(&self, name: &str) -> u64 {
        // Checked when it was set.
        self.get(name).and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    /// The size, if it was given.
    pub(super) fn size(&self) -> Option<u64> {
        self.get("size").and_then(|v| v.parse().ok())
    }

    /// How space is set aside.
    pub(super) fn preallocation(&self) -> Result<Preallocation, String> {
        match self.get("preallocation") {
            None => Ok(Preallocation::Off),
            Some(name) => preallocation(name)
                .ok_or_else(|| format!("Parameter 'preallocation' does not accept value '{name}'")),
        }
    }

    /// As the qcow2 code takes them.
    pub(super) fn qcow2(&self, size: u64) -> Result<CreateOptions, String> {
        let preallocation = self.preallocation()?;
        let version = match self.get("compat") {
            None | Some("v3" | "1.1") => 3,
            Some("v2" | "0.10") => 2,
            Some(other) => {
                return Err(format!(
                    "Parameter 'version' does not accept value '{other}'"
                ));
            }
        };
        Ok(CreateOptions {
            size,
            version,
            cluster_size: self.number("cluster_size"),
            refcount_bits: u32::try_from(self.number("refcount_bits")).unwrap_or(u32::MAX),
            lazy_refcounts: self.get("lazy_refcounts") == Some("on"),
            preallocation,
            backing: self
                .get("backing_file")
                .map(|name| disk::qcow2::BackingName {
                    name: name.to_string(),
                    format: self.get("backing_fmt").map(String::from),
                }),
        })
    }
}

/// A preallocation mode by its name.
pub(super) fn preallocation(name: &str) -> Option<Preallocation> {
    Some(match name {
        "off" => Preallocation::Off,
        "metadata" => Preallocation::Metadata,
        "falloc" => Preallocation::Falloc,
        "full" => Preallocation::Full,
        _ => return None,
    })
}

/// The text behind `-o help`.
pub(super) fn help(format: Format) -> String {
    let mut out = format!("Supported {} options:\n", format.name());
    for row in &ROWS {
        if row.help.is_empty() || row.format.is_some_and(|f| f != format) {
            continue;
        }
        let kind = match row.kind {
            Kind::Text => "<str>",
            Kind::Size => "<size>",
            Kind::Number => "<num>",
            Kind::Bool => "<bool (on/off)>",
        };
        let name = format!("{}={kind}", row.name);
        out.push_str(&format!("  {name:<22} - {}\n", row.help));
    }
    out
}

fn split(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(c) = letters.next() {
        let last = items.len() - 1;
        match c {
            ',' if letters.peek() == Some(&',') => {
                letters.next();
                items[last].push(',');
            }
            ',' => items.push(String::new()),
            c => items[last].push(c),
        }
    }
    items.retain(|i| !i.is_empty());
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_shown_in_qemus_order() {
        let mut options = FormatOptions::new(Format::Qcow2);
        let text = "size=1M,backing_file=a,,b,cluster_size=4k,compat=v3";
        options.parse(text).expect("valid");
        assert_eq!(
            options.show(),
            " cluster_size=4096 extended_l2=off compression_type=zlib size=1048576 compat=v3 \
             backing_file=a,b lazy_refcounts=off refcount_bits=16"
        );
        assert_eq!(options.refuse_unsupported(), Ok(()));
        options.parse("extended_l2=on").expect("valid");
        assert_eq!(
            options.refuse_unsupported(),
            Err("The option 'extended_l2=on' is not supported".into())
        );
    }

    #[test]
    fn formats_have_options_of_their_own() {
        let mut raw = FormatOptions::new(Format::Raw);
        assert_eq!(
            raw.parse("cluster_size=4k"),
            Err("Invalid parameter 'cluster_size'".into())
        );
        assert_eq!(raw.show(), "");
    }
}
