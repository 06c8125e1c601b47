//! Where one JSON value of a stream ends and the next begins. Memory is
//! bounded whatever a client sends.

/// Longest value, in bytes.
const LONGEST: usize = 1 << 20;
/// Deepest nesting; `serde_json` refuses 128.
const DEEPEST: usize = 100;

/// What the stream had.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The text of a value.
    Value(Vec<u8>),
    /// Something that is skipped to the end of its line: why.
    Junk(&'static str),
}

/// Cuts a stream into values.
#[derive(Debug, Default)]
pub struct Framer {
    value: Vec<u8>,
    depth: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Between two values.
    #[default]
    Outside,
    /// In an object or a list.
    Inside,
    /// In a text, and behind a backslash in it.
    Text,
    Escaped,
    /// What is wrong is skipped to the end of the line.
    Skip,
}

impl Framer {
    /// Takes a byte; gives a value when it is the last one of it.
    pub fn take(&mut self, byte: u8) -> Option<Frame> {
        match self.place {
            Place::Skip => {
                if byte == b'\n' {
                    self.place = Place::Outside;
                }
                None
            }
            Place::Outside => self.begin(byte),
            Place::Inside | Place::Text | Place::Escaped => self.go_on(byte),
        }
    }

    fn begin(&mut self, byte: u8) -> Option<Frame> {
        match byte {
            b'{' | b'[' => {
                self.value.push(byte);
                self.depth = 1;
                self.place = Place::Inside;
                None
            }
            // 0xff is what clients send to start anew.
            b' ' | b'\t' | b'\r' | b'\n' | 0xff => None,
            _ => self.junk("expecting value"),
        }
    }

    fn go_on(&mut self, byte: u8) -> Option<Frame> {
        if byte == 0xff {
            self.value.clear();
            self.place = Place::Outside;
            return None;
        }
        self.value.push(byte);
        if self.value.len() > LONGEST {
            return self.junk("message is too long");
        }
        match (self.place, byte) {
            (Place::Escaped, _) => self.place = Place::Text,
            (Place::Text, b'\\') => self.place = Place::Escaped,
            (Place::Text, b'"') => self.place = Place::Inside,
            (Place::Text, _) => {}
            (_, b'"') => self.place = Place::Text,
            (_, b'{' | b'[') => {
                self.depth += 1;
                if self.depth > DEEPEST {
                    return self.junk("nesting is too deep");
                }
            }
            (_, b'}' | b']') => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.place = Place::Outside;
                    return Some(Frame::Value(std::mem::take(&mut self.value)));
                }
            }
            _ => {}
        }
        None
    }

    fn junk(&mut self, why: &'static str) -> Option<Frame> {
        self.value = Vec::new();
        self.place = Place::Skip;
        Some(Frame::Junk(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut framer = Framer::default();
        bytes.iter().filter_map(|&b| framer.take(b)).collect()
    }

    fn value(text: &str) -> Frame {
        Frame::Value(text.into())
    }

    #[test]
    fn values_are_cut() {
        let text = "{\"a\": [1, \"}\\\"\"]}\n{}{\"b\":{}}";
        let expected = ["{\"a\": [1, \"}\\\"\"]}", "{}", "{\"b\":{}}"].map(value);
        assert_eq!(frames(text.as_bytes()), expected);
    }

    #[test]
    fn junk_is_skipped() {
        let text = b"hello {}\n{}\xff{\"half\xff{}";
        let expected = [Frame::Junk("expecting value"), value("{}"), value("{}")];
        assert_eq!(frames(text), expected);
        let deep = "[".repeat(64 << 20);
        assert_eq!(
            frames(deep.as_bytes()),
            [Frame::Junk("nesting is too deep")]
        );
        let long = format!("{{\"{}\"}}\n{{}}", "x".repeat(LONGEST));
        let expected = [Frame::Junk("message is too long"), value("{}")];
        assert_eq!(frames(long.as_bytes()), expected);
    }
}
