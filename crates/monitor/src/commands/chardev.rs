//! Host ends.

use crate::command::*;
use machine::console::Ring;
use machine::{SerialConfig, SocketConfig};
use serde_json::{Value, json};

pub static COMMANDS: &[Command] = &[
    both(
        "query-chardev",
        &["info chardev"],
        "the host ends",
        |context, _| {
            let chardevs = context.target.machine.chardevs();
            let rows = chardevs.iter();
            let rows = rows.map(|(label, host)| {
            json!({ "label": label, "filename": describe(host), "frontend-open": true })
        });
            Ok(rows.collect())
        },
    )
    .returns(Type::List(&Type::Object(&[
        must("label", Type::Text),
        must("filename", Type::Text),
        must("frontend-open", Type::Bool),
    ])))
    .shown(|answer| {
        let rows = answer.as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        rows.map(|row| {
            format!(
                "{}: filename={}\n",
                text(&row["label"]),
                text(&row["filename"])
            )
        })
        .collect()
    }),
    both(
        "ringbuf-read",
        &["ringbuf_read"],
        "take what was sent to a ringbuf",
        |context, arguments| {
            let ring = ring(context, need_text(arguments, "device")?)?;
            let size = number_of(arguments, "size").unwrap_or(0);
            let bytes = ring.read(usize::try_from(size).unwrap_or(usize::MAX));
            Ok(match text_of(arguments, "format") {
                Some("base64") => base64(&bytes).into(),
                _ => String::from_utf8_lossy(&bytes).into(),
            })
        },
    )
    .takes(&[
        need("device", Kind::Text),
        need("size", Kind::Number),
        need("format", Kind::Choice(&["utf8", "base64"]))
            .optional()
            .of(Of::Qmp),
    ])
    .returns(Type::Text),
];

fn describe(host: &SerialConfig) -> String {
    match host {
        SerialConfig::None => "null".into(),
        SerialConfig::Stdio => "stdio".into(),
        SerialConfig::File(path) => format!("file:{}", path.display()),
        SerialConfig::Pipe(path) => format!("pipe:{}", path.display()),
        SerialConfig::Socket(SocketConfig {
            address, server, ..
        }) => {
            format!("{address}{}", if *server { ",server=on" } else { "" })
        }
        SerialConfig::Pty(pty) => match pty.name() {
            Some(name) => format!("pty:{name}"),
            None => "pty".into(),
        },
        SerialConfig::Ring(_) => "ringbuf".into(),
        SerialConfig::Mux(mux) => format!("mux ({})", describe(&mux.backend)),
        SerialConfig::Logged(host, _) => describe(host),
        SerialConfig::Named(id) => id.clone(),
        SerialConfig::Memory(_) => "memory".into(),
    }
}

fn ring(context: &Context<'_>, label: &str) -> Result<Ring, Failure> {
    let chardevs = context.target.machine.chardevs();
    let found = chardevs.into_iter().find_map(|(_, host)| match host {
        SerialConfig::Ring(ring) if ring.label() == label => Some(ring),
        _ => None,
    });
    found.ok_or_else(|| format!("there is no ringbuf '{label}'").into())
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            text.push(match digit <= chunk.len() {
                true => DIGITS[(bits >> (18 - 6 * digit) & 63) as usize].into(),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_the_rfcs() {
        for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(super::base64(text.as_bytes()), expected);
        }
    }
}
