//! Names of image files: paths, `file:` paths and `json:` descriptions.

use crate::errno::{Error, Result};
use crate::format::Format;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What a name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// The file.
    pub path: PathBuf,
    /// The format, if the name says it.
    pub format: Option<Format>,
    /// The image is a description, not just a path.
    pub described: bool,
    /// What is below it, if that is not what the image itself says.
    pub backing: Option<Below>,
}

/// What a description puts below an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Below {
    /// Nothing.
    Nothing,
    /// This image.
    Image(Box<ImageName>),
}

impl ImageName {
    /// Understands a name.
    ///
    /// # Errors
    /// It asks for a protocol, a driver or an option that we do not have.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some(json) = name.strip_prefix("json:") {
            return described(json);
        }
        let path = match protocol(name) {
            None => name,
            Some("file") => &name["file:".len()..],
            Some(other) => {
                return Err(Error::unsupported(format!("Unknown protocol '{other}'")));
            }
        };
        Ok(Self {
            path: path.into(),
            format: None,
            described: false,
            backing: None,
        })
    }

    /// The name of a backing file as its overlay writes it: relative paths
    /// begin where the overlay is.
    ///
    /// # Errors
    /// As for [`Self::parse`].
    pub fn parse_backing(name: &str, overlay: &Path) -> Result<Self> {
        let mut parsed = Self::parse(name)?;
        if !parsed.described && parsed.path.is_relative() {
            // A path without a directory has the empty one.
            let directory = overlay.parent().unwrap_or(Path::new(""));
            parsed.path = directory.join(&parsed.path);
        }
        Ok(parsed)
    }
}

/// `x` of `x:y`, if that is no path with a colon in it.
fn protocol(name: &str) -> Option<&str> {
    let end = name.find([':', '/'])?;
    name[end..].starts_with(':').then(|| &name[..end])
}

/// A `json:` description: a format on a file, either of which may be implied.
fn described(json: &str) -> Result<ImageName> {
    let parsed: Value = serde_json::from_str(json)
        .map_err(|e| Error::invalid(format!("Could not parse the JSON options: {e}")))?;
    match parsed {
        Value::Object(fields) => object(&fields),
        _ => Err(Error::invalid("Invalid JSON object given")),
    }
}

fn object(fields: &Map<String, Value>) -> Result<ImageName> {
    let mut name = ImageName {
        path: PathBuf::new(),
        format: None,
        described: true,
        backing: None,
    };
    let mut path = None;
    // The file's fields may be written flat.
    let mut flat = Vec::new();
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("file", Value::Object(inner)) => {
                flat.extend(inner.iter().map(|(k, v)| (k.as_str(), v)));
            }
            ("backing", Value::Null) => name.backing = Some(Below::Nothing),
            ("backing", Value::Object(inner)) => {
                name.backing = Some(Below::Image(Box::new(object(inner)?)));
            }
            (key, value) => match key.strip_prefix("file.") {
                Some(key) => flat.push((key, value)),
                None => match (key, value.as_str()) {
                    ("driver", Some("file")) => {}
                    ("driver", Some(driver)) => name.format = Some(known(driver)?),
                    ("filename", Some(value)) => path = Some(value.to_string()),
                    _ => return Err(unknown_option(key)),
                },
            },
        }
    }
    for (key, value) in flat {
        match (key, value.as_str()) {
            ("driver", Some("file")) => {}
            ("driver", Some(other)) => {
                return Err(Error::unsupported(format!("Unknown driver '{other}'")));
            }
            ("filename", Some(value)) => path = Some(value.to_string()),
            _ => return Err(unknown_option(&format!("file.{key}"))),
        }
    }
    if name.backing.is_some() && name.format != Some(Format::Qcow2) {
        return Err(unknown_option("backing"));
    }
    name.path = path
        .ok_or_else(|| Error::invalid("A block device must be specified for \"file\""))?
        .into();
    Ok(name)
}

fn unknown_option(key: &str) -> Error {
    Error::unsupported(format!("The option '{key}' is not supported"))
}

fn known(driver: &str) -> Result<Format> {
    Format::by_name(driver).ok_or_else(|| Error::unsupported(format!("Unknown driver '{driver}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> Result<(String, Option<Format>), String> {
        let parsed = ImageName::parse(name).map_err(|e| e.to_string())?;
        Ok((parsed.path.display().to_string(), parsed.format))
    }

    #[test]
    fn names_are_understood_as_qemu_does() {
        assert_eq!(path("a/b:c"), Ok(("a/b:c".into(), None)));
        assert_eq!(path("file:a"), Ok(("a".into(), None)));
        assert_eq!(path("nbd:x"), Err("Unknown protocol 'nbd'".into()));
        let qcow2 = Ok(("q".to_string(), Some(Format::Qcow2)));
        assert_eq!(
            path(r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"q"}}"#),
            qcow2
        );
        assert_eq!(
            path(r#"json:{"driver":"qcow2","file.filename":"q"}"#),
            qcow2
        );
        assert_eq!(
            path(r#"json:{"driver":"luks","file.filename":"q"}"#),
            Err("Unknown driver 'luks'".into())
        );
        assert_eq!(
            path(r#"json:{"file.filename":"q","offset":5}"#),
            Err("The option 'offset' is not supported".into())
        );
    }

    #[test]
    fn relative_backing_files_are_beside_their_overlay() {
        let of = |name: &str| {
            let parsed = ImageName::parse_backing(name, Path::new("dir/overlay"));
            parsed.expect("valid").path.display().to_string()
        };
        assert_eq!(of("base"), "dir/base");
        assert_eq!(of("/base"), "/base");
    }
}
