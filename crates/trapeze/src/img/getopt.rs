//! Options as `getopt_long` of the C library takes them: short ones may be
//! joined, long ones abbreviated, operands may stand anywhere, and `--` ends
//! the options.

use super::table::{Command, Row};

/// The words of a command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// (the option's long name, its value), in order.
    pub(super) options: Vec<(&'static str, String)>,
    /// What is no option.
    pub(super) operands: Vec<String>,
}

impl Parsed {
    /// The option was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(n, _)| *n == name)
    }

    /// Its last value.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// Its values.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.options.iter().filter(move |(n, _)| *n == name);
        named.map(|(_, value)| value.as_str())
    }
}

/// Parses the words after a command's name. The error is getopt's, without
/// the program's name.
pub(super) fn parse(command: &Command, words: &[String]) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.operands.extend(words.cloned());
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (long, None),
            };
            let row = find_long(command, name, long)?;
            parsed
                .options
                .push((row.long, long_value(row, value, &mut words)?));
        } else if word.len() > 1 && word.starts_with('-') {
            short_options(command, &word[1..], &mut words, &mut parsed)?;
        } else {
            parsed.operands.push(word.clone());
        }
    }
    Ok(parsed)
}

fn find_long(command: &Command, name: &str, given: &str) -> Result<&'static Row, String> {
    let rows = || command.options.iter();
    if let Some(row) = rows().find(|r| r.long == name) {
        return Ok(row);
    }
    let possible: Vec<&Row> = rows().filter(|r| r.long.starts_with(name)).collect();
    match possible[..] {
        [] => Err(format!("unrecognized option '--{given}'")),
        [_] => rows()
            .find(|r| r.long.starts_with(name))
            .ok_or_else(String::new),
        _ => {
            let names: Vec<String> = possible.iter().map(|r| format!("'--{}'", r.long)).collect();
            Err(format!(
                "option '--{given}' is ambiguous; possibilities: {}",
                names.join(" ")
            ))
        }
    }
}

fn long_value<'a>(
    row: &Row,
    value: Option<String>,
    words: &mut impl Iterator<Item = &'a String>,
) -> Result<String, String> {
    match (row.value.is_empty(), value) {
        (true, None) => Ok(String::new()),
        (true, Some(_)) => Err(format!("option '--{}' doesn't allow an argument", row.long)),
        (false, Some(value)) => Ok(value),
        (false, None) => words
            .next()
            .cloned()
            .ok_or_else(|| format!("option '--{}' requires an argument", row.long)),
    }
}

fn short_options<'a>(
    command: &Command,
    letters: &str,
    words: &mut impl Iterator<Item = &'a String>,
    parsed: &mut Parsed,
) -> Result<(), String> {
    for (at, letter) in letters.char_indices() {
        let row = command.options.iter().find(|r| r.short == letter);
        let row = row.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
        if row.value.is_empty() {
            parsed.options.push((row.long, String::new()));
            continue;
        }
        let rest = &letters[at + letter.len_utf8()..];
        let value = match rest.is_empty() {
            false => rest.to_string(),
            true => words
                .next()
                .cloned()
                .ok_or_else(|| format!("option requires an argument -- '{letter}'"))?,
        };
        parsed.options.push((row.long, value));
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::table::COMMANDS;
    use super::*;

    fn create(words: &str) -> Result<Parsed, String> {
        let words: Vec<String> = words.split(' ').map(String::from).collect();
        let command = COMMANDS.iter().find(|c| c.name == "create");
        parse(command.expect("there is one"), &words)
    }

    #[test]
    fn options_are_taken_as_getopt_does() {
        let expected = Parsed {
            options: vec![("quiet", String::new()), ("format", "qcow2".into())],
            operands: vec!["a".into(), "1G".into()],
        };
        for words in [
            "-q -f qcow2 a 1G",
            "-qfqcow2 a 1G",
            "a --quiet 1G --format=qcow2",
            "--qui --form qcow2 -- a 1G",
        ] {
            assert_eq!(create(words).as_ref(), Ok(&expected), "{words}");
        }
    }

    #[test]
    fn mistakes_are_told_in_the_c_librarys_words() {
        let said = |words: &str| create(words).expect_err("wrong");
        assert_eq!(said("-1"), "invalid option -- '1'");
        assert_eq!(said("--foo=1"), "unrecognized option '--foo=1'");
        assert_eq!(said("a -f"), "option requires an argument -- 'f'");
        assert_eq!(
            said("--quiet=1"),
            "option '--quiet' doesn't allow an argument"
        );
        assert_eq!(
            said("--back a"),
            "option '--back' is ambiguous; possibilities: '--backing' '--backing-format' \
             '--backing-unsafe'"
        );
    }
}
