//! A machine's state as named sections.

use crate::{Error, Memory, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A structure of the schema.
pub trait Schema: Serialize + DeserializeOwned {
    /// First part of its sections' names.
    const NAME: &'static str;
    /// Raised with every change of the structure.
    const VERSION: u32;
}

/// A structure as it lies in an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Section {
    pub(crate) version: u32,
    pub(crate) data: Value,
}

/// Sections by name, and guest memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    pub(crate) sections: BTreeMap<String, Section>,
    /// Guest memory.
    pub memory: Memory,
}

fn full_name<S: Schema>(instance: &str) -> String {
    match instance {
        "" => S::NAME.to_string(),
        instance => format!("{}/{instance}", S::NAME),
    }
}

impl Image {
    /// Adds a section. Panics if there is one of this name: instances are
    /// named by us.
    pub fn put<S: Schema>(&mut self, instance: &str, data: &S) {
        let name = full_name::<S>(instance);
        let data = serde_json::to_value(data).unwrap_or(Value::Null);
        assert!(!data.is_null(), "{name} is no plain structure");
        let version = S::VERSION;
        let before = self.sections.insert(name, Section { version, data });
        assert!(before.is_none(), "two sections of one name");
    }

    /// Takes a section out.
    pub fn take<S: Schema>(&mut self, instance: &str) -> Result<S> {
        let name = full_name::<S>(instance);
        let section = self.sections.remove(&name);
        let section = section.ok_or_else(|| Error::Missing(name.clone()))?;
        if section.version != S::VERSION {
            return Err(Error::Version {
                name,
                version: section.version,
                expected: S::VERSION,
            });
        }
        serde_json::from_value(section.data).map_err(|e| Error::Malformed {
            name,
            why: e.to_string(),
        })
    }

    /// All sections were taken.
    pub fn finish(&self) -> Result<()> {
        match self.sections.keys().next() {
            Some(name) => Err(Error::Unknown(name.clone())),
            None => Ok(()),
        }
    }

    /// Names of the sections.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// The first difference between two images, `ignore`d fields aside: a
    /// path of names, and both values.
    pub fn difference(&self, other: &Self, ignore: &[&str]) -> Option<String> {
        let names: Vec<_> = self.sections.keys().collect();
        let others: Vec<_> = other.sections.keys().collect();
        if names != others {
            return Some(format!("sections: {names:?}, {others:?}"));
        }
        let sections = self.sections.iter().zip(other.sections.values());
        let first = sections
            .filter_map(|((name, a), b)| compare(name, &a.data, &b.data, ignore))
            .next();
        first.or_else(|| self.memory.difference(&other.memory))
    }
}

/// The first place where two values differ.
fn compare(path: &str, a: &Value, b: &Value, ignore: &[&str]) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => a
            .iter()
            .zip(b.values())
            .filter(|((key, _), _)| !ignore.contains(&&***key))
            .find_map(|((key, a), b)| compare(&format!("{path}.{key}"), a, b, ignore)),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (a, b))| compare(&format!("{path}[{i}]"), a, b, ignore)),
        (a, b) => (a != b).then(|| format!("{path}: {a}, {b}")),
    }
}

/// Says of structures what their sections are called.
macro_rules! schema {
    ($($type:ident $name:literal $version:literal;)*) => {
        $(impl $crate::Schema for $type {
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
        })*
    };
}
pub(crate) use schema;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Old {
        level: u8,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct New {
        level: u8,
        edge: bool,
    }
    schema! { Old "line" 1; New "line" 2; }

    #[test]
    fn what_does_not_fit_is_named() {
        let mut image = Image::default();
        image.put("a", &Old { level: 3 });
        assert_eq!(image.clone().take::<Old>("a"), Ok(Old { level: 3 }));
        let version = Error::Version {
            name: "line/a".into(),
            version: 1,
            expected: 2,
        };
        assert_eq!(image.clone().take::<New>("a"), Err(version));
        assert_eq!(image.finish(), Err(Error::Unknown("line/a".into())));
        let missing = Err(Error::Missing("line/b".into()));
        assert_eq!(image.clone().take::<Old>("b"), missing);
        let section = image.sections.get_mut("line/a").unwrap();
        section.data["level"] = 256.into();
        assert!(matches!(
            image.clone().take::<Old>("a"),
            Err(Error::Malformed { .. })
        ));
        image.sections.get_mut("line/a").unwrap().data["more"] = 1.into();
        assert!(image.take::<Old>("a").is_err());
    }

    #[test]
    fn differences_are_found_where_they_are() {
        let (mut a, mut b) = (Image::default(), Image::default());
        a.put(
            "",
            &New {
                level: 1,
                edge: true,
            },
        );
        b.put(
            "",
            &New {
                level: 2,
                edge: true,
            },
        );
        assert_eq!(a.difference(&b, &[]), Some("line.level: 1, 2".into()));
        assert_eq!(a.difference(&b, &["level"]), None);
        b.put("x", &Old { level: 0 });
        assert!(a.difference(&b, &["level"]).is_some());
    }
}
