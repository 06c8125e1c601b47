//! `-uuid`, `-smbios`, `-fw_cfg`: what the machine tells about itself.

use super::keyval;
use super::parse::Options;
use crate::near::did_you_mean;
use machine::{FwCfgFile, Image, SMBIOS_FIELDS, SmbiosRow, SmbiosValue};
use std::sync::Arc;

/// `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
fn uuid_bytes(text: &str) -> Result<[u8; 16], String> {
    let bad = || "not a UUID; write it as 01234567-89ab-cdef-0123-456789abcdef".to_string();
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    if groups != [8, 4, 4, 4, 12] || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let number = u128::from_str_radix(&digits, 16).map_err(|_| bad())?;
    Ok(number.to_be_bytes())
}

/// `-uuid`.
pub(super) fn uuid(options: &mut Options, value: &str) -> Result<(), String> {
    options.config.uuid = uuid_bytes(value)?;
    Ok(())
}

/// `-smbios`.
pub(super) fn smbios(options: &mut Options, value: &str) -> Result<(), String> {
    let mut words = keyval::parse(value).into_iter();
    let kind = match words.next() {
        Some((key, Some(kind))) if key == "type" => kind,
        Some((key, _)) if key == "file" => {
            return Err("file= is not supported; write type=N,FIELD=VALUE".into());
        }
        _ => return Err("type= is missing; write type=N,FIELD=VALUE".into()),
    };
    let row = kind.parse().ok().and_then(row).ok_or_else(|| {
        let kinds: Vec<String> = SMBIOS_FIELDS.iter().map(|r| r.kind.to_string()).collect();
        format!("type={kind}: not supported; there are {}", kinds.join(", "))
    })?;
    for (key, value) in words {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        let (field, is_number) = find(row, &key)?;
        let named = |why: &str| format!("{key}={value}: {why}");
        if is_number && value.parse::<u16>().is_err() {
            return Err(named("not a number up to 65535"));
        }
        if value.contains('\0') {
            return Err(named("contains a NUL byte"));
        }
        if field == "uuid" {
            options.config.uuid = uuid_bytes(&value).map_err(|why| named(&why))?;
        }
        options.config.smbios.push(SmbiosValue {
            kind: row.kind,
            field,
            value,
        });
    }
    Ok(())
}

fn row(kind: u8) -> Option<&'static SmbiosRow> {
    SMBIOS_FIELDS.iter().find(|r| r.kind == kind)
}

/// A field of a type, and whether it is a number.
fn find(row: &'static SmbiosRow, key: &str) -> Result<(&'static str, bool), String> {
    let texts = row.texts.iter().map(|&n| (n, false));
    let mut all = texts.chain(row.numbers.iter().map(|&n| (n, true)));
    all.clone().find(|f| f.0 == key).ok_or_else(|| {
        let near = did_you_mean(key, all.clone().map(|f| f.0));
        let names: Vec<_> = all.by_ref().map(|f| f.0).collect();
        format!(
            "type={} has no field '{key}'{near}; there are {}",
            row.kind,
            names.join(", ")
        )
    })
}

/// `-fw_cfg`.
pub(super) fn fw_cfg(options: &mut Options, value: &str) -> Result<(), String> {
    let (mut name, mut content) = (None, None);
    for (position, (key, value)) in keyval::parse(value).into_iter().enumerate() {
        let once = |content: &Option<Image>| match content {
            None => Ok(()),
            Some(_) => Err("takes one of file= and string=".to_string()),
        };
        match (&*key, value) {
            (text, None) if position == 0 => name = Some(text.to_string()),
            ("name", Some(text)) => name = Some(text),
            ("file", Some(path)) => {
                once(&content)?;
                content = Some(Image::at(path));
            }
            ("string", Some(text)) => {
                once(&content)?;
                content = Some(Image::Bytes {
                    name: "string".into(),
                    bytes: Arc::from(text.into_bytes()),
                });
            }
            (key, _) => {
                let near = did_you_mean(key, ["name", "file", "string"].into_iter());
                return Err(format!(
                    "property '{key}' is not supported{near}; there are name, file and string"
                ));
            }
        }
    }
    let name = name.filter(|n| !n.is_empty()).ok_or("name= is missing")?;
    if !name.starts_with("opt/") {
        let why = "names of the user's begin with opt/, others are for the machine's";
        return Err(format!("name={name}: {why}"));
    }
    let content = content.ok_or("one of file= and string= is missing")?;
    options.config.fw_cfg.push(FwCfgFile { name, content });
    Ok(())
}
