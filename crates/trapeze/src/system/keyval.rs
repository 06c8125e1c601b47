//! QEMU's `key=value,key=value` words: a doubled comma is a comma of the
//! value.

use monitor::comma_words;

/// Pairs in order; a word without `=` has no value.
pub(super) fn parse(text: &str) -> Vec<(String, Option<String>)> {
    comma_words(text)
        .into_iter()
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once('=') {
            Some((key, value)) => (key.to_string(), Some(value.to_string())),
            None => (word, None),
        })
        .collect()
}

/// An id, as QEMU wants them.
pub(super) fn id(value: &str) -> Result<String, String> {
    let rest = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    match value.starts_with(|c: char| c.is_ascii_alphabetic()) && value.chars().all(rest) {
        true => Ok(value.into()),
        false => {
            Err("an identifier has letters, digits, '-', '.', '_' and starts with a letter".into())
        }
    }
}

/// `on` or `off` and their synonyms.
pub(super) fn on_off(value: &str) -> Result<bool, String> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(format!("'{value}' is neither on nor off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_commas_belong_to_the_value() {
        let pair = |k: &str, v: &str| (k.to_string(), Some(v.to_string()));
        assert_eq!(
            parse("file=a,,b=c,if=virtio,help"),
            [
                pair("file", "a,b=c"),
                pair("if", "virtio"),
                ("help".to_string(), None)
            ]
        );
        assert_eq!(parse(",,,"), [(",".to_string(), None)]);
        assert_eq!(parse(""), []);
    }
}
