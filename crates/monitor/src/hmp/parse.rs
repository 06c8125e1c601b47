//! From a line to arguments, by the command's row.

use super::expression::{self, Registers};
use crate::command::{Argument, Arguments, Command, Failure, Hmp, Kind, Of};
use crate::commands;
use serde_json::Value;

/// The command a line begins with, and the rest of the line.
///
/// # Errors
/// There is no such command.
pub fn command(line: &str) -> Result<(&'static Command, &str), Failure> {
    let line = line.trim();
    let first = line.split_whitespace().next().unwrap_or_default();
    // A format may follow the name without a blank.
    let first = first.split('/').next().unwrap_or_default();
    let rest = line[first.len()..].trim_start();
    if first == "info" {
        let item = rest.split_whitespace().next().unwrap_or_default();
        let name = format!("info {item}");
        if let Some(found) = commands::by_hmp_name(&name) {
            return Ok((found, rest[item.len()..].trim_start()));
        }
        if !item.is_empty() {
            return Err(format!("unknown command: '{name}'; 'info' lists them").into());
        }
    }
    match commands::by_hmp_name(first) {
        Some(found) => Ok((found, rest)),
        None => Err(format!("unknown command: '{first}'; 'help' lists them").into()),
    }
}

/// The arguments of a command.
///
/// # Errors
/// They are not what the row says.
pub fn arguments(
    command: &Command,
    mut rest: &str,
    registers: &mut Registers<'_>,
) -> Result<Arguments, Failure> {
    let mut arguments = Arguments::new();
    for row in command.arguments.iter().filter(|row| row.of != Of::Qmp) {
        rest = rest.trim_start();
        if let Some(value) = take(row, &mut rest, registers)? {
            match (row.kind, value) {
                (Kind::Options(_), Value::Object(words)) => arguments.extend(words),
                (_, value) => drop(arguments.insert(row.name.into(), value)),
            }
        } else if !row.optional {
            let usage = usage(command);
            return Err(format!("{} is missing; usage: {usage}", row.name).into());
        }
    }
    match rest.trim() {
        "" => Ok(arguments),
        rest => {
            let usage = usage(command);
            Err(format!("'{rest}' is too much; usage: {usage}").into())
        }
    }
}

/// How a command is written.
pub fn usage(command: &Command) -> String {
    let names = command
        .hmp
        .as_ref()
        .map_or(&[][..], |Hmp { names, .. }| names);
    let mut text = names.first().copied().unwrap_or_default().to_string();
    for row in command.arguments.iter().filter(|row| row.of != Of::Qmp) {
        let name = match row.kind {
            Kind::Format => "/FMT".into(),
            Kind::Options(key) => format!("{}[,PROPERTY=VALUE...]", key.to_uppercase()),
            Kind::Choice(choices) => choices.join("|"),
            Kind::Switch => "on|off".into(),
            _ => row.name.to_uppercase(),
        };
        text += &match row.optional {
            true => format!(" [{name}]"),
            false => format!(" {name}"),
        };
    }
    text
}

/// Takes a word: up to a blank, or between quotes.
fn word<'a>(rest: &mut &'a str) -> &'a str {
    let text = *rest;
    if let Some(quoted) = text.strip_prefix('"')
        && let Some(end) = quoted.find('"')
    {
        *rest = &quoted[end + 1..];
        return &quoted[..end];
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    *rest = &text[end..];
    &text[..end]
}

fn take(
    row: &Argument,
    rest: &mut &str,
    registers: &mut Registers<'_>,
) -> Result<Option<Value>, Failure> {
    if matches!(row.kind, Kind::Format) {
        let format = rest.starts_with('/').then(|| word(rest));
        return Ok(format.map(|format| Value::from(&format[1..])));
    }
    if rest.is_empty() {
        return Ok(None);
    }
    Ok(Some(match row.kind {
        Kind::Rest => std::mem::take(rest).into(),
        Kind::Text | Kind::Texts | Kind::Format => word(rest).into(),
        Kind::Number => {
            // The last number may contain blanks.
            let text = match row.optional {
                true => word(rest),
                false => expression_text(rest),
            };
            expression::value(text, registers)?.into()
        }
        Kind::Size => size(word(rest))?.into(),
        Kind::Switch => match word(rest) {
            "on" => true.into(),
            "off" => false.into(),
            other => return Err(format!("{}: '{other}' is neither on nor off", row.name).into()),
        },
        Kind::Choice(choices) => {
            let text = word(rest);
            if !choices.contains(&text) {
                let list = choices.join(", ");
                return Err(format!("{}: '{text}' is none of {list}", row.name).into());
            }
            text.into()
        }
        Kind::Options(key) => options(key, std::mem::take(rest)),
    }))
}

/// A word, but with parentheses whole.
fn expression_text<'a>(rest: &mut &'a str) -> &'a str {
    let text = *rest;
    let mut depth = 0;
    let end = text.find(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth <= 0 && c.is_whitespace()
    });
    let end = end.unwrap_or(text.len());
    *rest = &text[end..];
    &text[..end]
}

/// MiB unless a suffix says otherwise.
fn size(text: &str) -> Result<u64, Failure> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "b" | "B" => 0,
        "k" | "K" => 10,
        "" | "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        suffix => return Err(format!("'{suffix}' is none of the suffixes B, K, M, G, T").into()),
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number.and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("'{text}' is not a size").into())
}

/// The words between single commas; a doubled comma is a comma of its word.
pub fn comma_words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let separates = c == ',' && rest.next_if_eq(&',').is_none();
        match (separates, words.last_mut()) {
            (false, Some(word)) => word.push(c),
            _ => words.push(String::new()),
        }
    }
    words
}

/// `NAME,key=value,...`; a key alone is on.
pub fn options(first_key: &str, text: &str) -> Value {
    let words = comma_words(text.trim());
    let mut options = Arguments::new();
    for (position, word) in words
        .into_iter()
        .filter(|word| !word.is_empty())
        .enumerate()
    {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key.to_string(), value.to_string()),
            None if position == 0 => (first_key.to_string(), word),
            None => (word, "on".into()),
        };
        options.insert(key, value.into());
    }
    Value::Object(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(line: &str) -> Result<Value, String> {
        let (command, rest) = command(line).map_err(|e| e.text)?;
        let mut none = |name: &str| Err(format!("no register '{name}'").into());
        let arguments = arguments(command, rest, &mut none);
        arguments.map(Value::Object).map_err(|e| e.text)
    }

    #[test]
    fn lines_become_arguments() {
        for (line, expected) in [
            ("stop", json!({})),
            ("balloon 256", json!({ "value": 256 << 20 })),
            ("balloon 64k", json!({ "value": 64 << 10 })),
            (
                "x /4xg (0x1000 + 8)",
                json!({ "format": "4xg", "address": 0x1008 }),
            ),
            ("x/2i 16", json!({ "format": "2i", "address": 16 })),
            (
                "memsave 0x1000 4096 \"a file\"",
                json!({ "val": 4096, "size": 4096, "filename": "a file" }),
            ),
            ("set_link n0 off", json!({ "name": "n0", "up": false })),
        ] {
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, why) in [
            ("stpo", "unknown command: 'stpo'"),
            ("info", ""),
            ("info nothing", "unknown command: 'info nothing'"),
            ("stop now", "'now' is too much"),
            ("balloon", "value is missing; usage: balloon VALUE"),
            ("balloon 5q", "suffixes"),
            ("set_link n0 perhaps", "neither on nor off"),
        ] {
            match parse(line) {
                Err(text) => assert!(text.contains(why), "{line}: {text}"),
                Ok(_) => assert_eq!(why, "", "{line}"),
            }
        }
    }
}
