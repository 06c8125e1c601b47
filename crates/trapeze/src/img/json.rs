//! JSON as QEMU prints it.

/// A value. Objects keep the order they are built in.
pub(super) enum Json {
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_string())
    }
}

impl From<u64> for Json {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl Json {
    /// With line breaks and four blanks a level.
    pub(super) fn pretty(&self) -> String {
        let mut out = String::new();
        self.print(0, &mut out);
        out
    }

    fn print(&self, level: usize, out: &mut String) {
        match self {
            Self::Bool(value) => out.push_str(&value.to_string()),
            Self::Number(value) => out.push_str(&value.to_string()),
            Self::Text(text) => quote(text, out),
            Self::List(items) => block(('[', ']'), level, items, out, |item, out| {
                item.print(level + 1, out);
            }),
            Self::Object(items) => block(('{', '}'), level, items, out, |(name, value), out| {
                quote(name, out);
                out.push_str(": ");
                value.print(level + 1, out);
            }),
        }
    }
}

fn block<T>(
    (open, close): (char, char),
    level: usize,
    items: &[T],
    out: &mut String,
    print: impl Fn(&T, &mut String),
) {
    out.push(open);
    for (n, item) in items.iter().enumerate() {
        out.push_str(if n > 0 { ",\n" } else { "\n" });
        out.push_str(&"    ".repeat(level + 1));
        print(item, out);
    }
    out.push('\n');
    out.push_str(&"    ".repeat(level));
    out.push(close);
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_like_qemus() {
        let value = Json::Object(vec![
            ("a", Json::List(Vec::new())),
            ("b", Json::List(vec![1.into(), "x\"\u{e9}".into()])),
        ]);
        let expected = "{\n    \"a\": [\n    ],\n    \"b\": [\n        1,\n        \
            \"x\\\"\\u00E9\"\n    ]\n}";
        assert_eq!(value.pretty(), expected);
    }
}
