//! `-object filter-dump`.

use super::{Word, number, unknown};
use crate::system::keyval;
use crate::system::parse::Options;
use net::DumpConfig;

/// Most bytes of a frame that are written: none is longer.
const MOST: u32 = 1 << 20;

/// Its properties, and what they are.
pub(in crate::system) const PROPERTIES: [(&str, &str); 4] = [
    ("id", "the object's name"),
    ("netdev", "the network whose frames are written"),
    ("file", "the file, which is made anew (pcap)"),
    ("maxlen", "bytes of each frame at most (65536)"),
];

/// The object, whose type's name is not among the words.
pub(in crate::system) fn apply(options: &mut Options, words: Vec<Word>) -> Result<(), String> {
    let dump = parse(words)?;
    let dumps = &mut options.config.dumps;
    if dumps.iter().any(|other| other.id == dump.id) {
        return Err(format!("two objects have the id '{}'", dump.id));
    }
    dumps.push(dump);
    Ok(())
}

fn parse(words: Vec<Word>) -> Result<DumpConfig, String> {
    let mut dump = DumpConfig::default();
    for (key, value) in words {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        match &*key {
            "id" => dump.id = keyval::id(&value).map_err(|why| format!("id={value}: {why}"))?,
            "netdev" => dump.netdev = value,
            "file" => dump.file = value.into(),
            "maxlen" => {
                dump.max_length = number("maxlen", &value)?;
                if !(1..=MOST).contains(&dump.max_length) {
                    return Err(format!("maxlen={value}: takes 1 to {MOST}"));
                }
            }
            key => return Err(unknown(key, &PROPERTIES.map(|p| p.0))),
        }
    }
    let missing = [
        ("id", dump.id.is_empty()),
        ("netdev", dump.netdev.is_empty()),
        ("file", dump.file.as_os_str().is_empty()),
    ];
    match missing.iter().find(|(_, missing)| *missing) {
        Some((key, _)) => Err(format!("{key}= is missing")),
        None => Ok(dump),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let whole = parse(keyval::parse("id=f,netdev=n,file=/x,maxlen=96"));
        assert_eq!(whole.map(|dump| dump.max_length), Ok(96));
        for (text, named) in [
            ("netdev=n,file=/x", "id= is missing"),
            ("id=f,file=/x", "netdev= is missing"),
            ("id=f,netdev=n", "file= is missing"),
            ("id=f,netdev=n,file=/x,maxlen=0", "takes 1 to"),
            ("id=f,netdev=n,fiel=/x", "'fiel'; did you mean"),
        ] {
            let why = parse(keyval::parse(text)).expect_err(named);
            assert!(why.contains(named), "{text}: {why}");
        }
    }
}
