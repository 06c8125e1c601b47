//! A line that is typed on a terminal at the other end of a stream: keys come
//! as bytes, what is shown goes back as bytes. The line and its history are the
//! crate `editline`'s.

use editline::{History, LineBuffer};

/// Longest line.
const LONGEST: usize = 4096;
/// Lines that are remembered.
const REMEMBERED: usize = 100;

/// What is typed so far.
pub struct Editor {
    prompt: &'static str,
    line: LineBuffer,
    history: History,
    place: Place,
    /// What the terminal is to show.
    output: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Text,
    /// Behind ESC, and in a control sequence with this parameter.
    Escape,
    Sequence(u8),
}

/// What a key led to, besides what is to be shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A line is complete.
    Line(String),
    /// The user wants it completed: the text before the cursor.
    Tab(String),
}

impl Editor {
    /// An empty line behind this prompt.
    pub fn new(prompt: &'static str) -> Self {
        Self {
            prompt,
            line: LineBuffer::new(256),
            history: History::new(REMEMBERED),
            place: Place::Text,
            output: String::new(),
        }
    }

    /// Shows the prompt and the line anew.
    pub fn show(&mut self) {
        let text = self.text();
        self.output.push_str(self.prompt);
        self.output.push_str(&text);
        self.left(text.len().saturating_sub(self.line.cursor_pos()));
    }

    /// What is to be shown by now.
    pub fn take_output(&mut self) -> String {
        std::mem::take(&mut self.output)
    }

    fn text(&self) -> String {
        // Only ASCII gets in.
        self.line.as_str().unwrap_or_default().to_string()
    }

    /// Takes a byte.
    pub fn take(&mut self, byte: u8) -> Option<Typed> {
        match (self.place, byte) {
            (Place::Text, 0x1b) => self.place = Place::Escape,
            (Place::Escape, b'[' | b'O') => self.place = Place::Sequence(0),
            (Place::Escape, key) => {
                self.place = Place::Text;
                self.alt(key);
            }
            (Place::Sequence(_), digit @ b'0'..=b'9') => self.place = Place::Sequence(digit),
            (Place::Sequence(_), b';') => {}
            (Place::Sequence(parameter), key) => {
                self.place = Place::Text;
                self.sequence(parameter, key);
            }
            (Place::Text, byte) => return self.key(byte),
        }
        None
    }

    fn key(&mut self, byte: u8) -> Option<Typed> {
        const fn control(key: u8) -> u8 {
            key & 0x1f
        }
        const A: u8 = control(b'A');
        const B: u8 = control(b'B');
        const C: u8 = control(b'C');
        const D: u8 = control(b'D');
        const E: u8 = control(b'E');
        const F: u8 = control(b'F');
        const K: u8 = control(b'K');
        const L: u8 = control(b'L');
        const N: u8 = control(b'N');
        const P: u8 = control(b'P');
        const U: u8 = control(b'U');
        const W: u8 = control(b'W');
        match byte {
            b'\r' | b'\n' => return Some(Typed::Line(self.enter())),
            b'\t' => {
                let before = self.line.cursor_pos();
                let text = self.text();
                return Some(Typed::Tab(text[..before.min(text.len())].into()));
            }
            0x08 | 0x7f => self.backspace(),
            A => self.home(),
            B => self.move_left(),
            C => self.replace(""),
            D => self.delete(),
            E => self.end(),
            F => self.move_right(),
            K => self.delete_rest(),
            L => {
                self.output.push_str("\x1b[H\x1b[2J");
                self.show();
            }
            N => self.next(),
            P => self.previous(),
            U => {
                self.home();
                self.delete_rest();
            }
            W => self.delete_word(),
            b' '..=b'~' => self.insert(byte.into()),
            _ => {}
        }
        None
    }

    fn alt(&mut self, key: u8) {
        match key {
            b'b' => {
                let count = self.line.move_cursor_word_left();
                self.left(count);
            }
            b'f' => {
                let count = self.line.move_cursor_word_right();
                self.right(count);
            }
            0x08 | 0x7f => self.delete_word(),
            _ => {}
        }
    }

    fn sequence(&mut self, parameter: u8, key: u8) {
        match (parameter, key) {
            (_, b'A') => self.previous(),
            (_, b'B') => self.next(),
            (_, b'C') => self.move_right(),
            (_, b'D') => self.move_left(),
            (_, b'H') | (b'1' | b'7', b'~') => self.home(),
            (_, b'F') | (b'4' | b'8', b'~') => self.end(),
            (b'3', b'~') => self.delete(),
            _ => {}
        }
    }

    /// Inserts a character, or a text for a completion.
    pub fn insert(&mut self, c: char) {
        if self.line.len() >= LONGEST || !c.is_ascii() {
            return;
        }
        self.history.reset_view();
        self.line.insert_char(c);
        self.output.push(c);
        if self.line.cursor_pos() < self.line.len() {
            self.redraw();
        }
    }

    /// The line is complete.
    fn enter(&mut self) -> String {
        self.end();
        let line = self.text();
        self.history.add(&line);
        self.history.reset_view();
        self.line.clear();
        self.output.push_str("\r\n");
        line
    }

    /// Replaces the whole line.
    fn replace(&mut self, text: &str) {
        self.home();
        self.line.load(text);
        self.line.move_cursor_to_end();
        self.output.push_str("\x1b[K");
        self.output.push_str(text);
    }

    fn previous(&mut self) {
        let current = self.text();
        if let Some(line) = self.history.previous(&current).map(str::to_string) {
            self.replace(&line);
        }
    }

    fn next(&mut self) {
        if let Some(line) = self.history.next_entry().map(str::to_string) {
            self.replace(&line);
        }
    }

    fn backspace(&mut self) {
        if self.line.delete_before_cursor() {
            self.left(1);
            self.redraw();
        }
    }

    fn delete(&mut self) {
        if self.line.delete_at_cursor() {
            self.redraw();
        }
    }

    fn delete_rest(&mut self) {
        while self.line.delete_at_cursor() {}
        self.redraw();
    }

    fn delete_word(&mut self) {
        let count = self.line.delete_word_left();
        self.left(count);
        self.redraw();
    }

    fn home(&mut self) {
        let count = self.line.move_cursor_to_start();
        self.left(count);
    }

    fn end(&mut self) {
        let count = self.line.move_cursor_to_end();
        self.right(count);
    }

    fn move_left(&mut self) {
        if self.line.move_cursor_left() {
            self.left(1);
        }
    }

    fn move_right(&mut self) {
        if self.line.move_cursor_right() {
            self.right(1);
        }
    }

    /// Shows what is behind the cursor, and goes back to it.
    fn redraw(&mut self) {
        let text = self.text();
        let rest = text.get(self.line.cursor_pos()..).unwrap_or_default();
        self.output.push_str("\x1b[K");
        self.output.push_str(rest);
        self.left(rest.len());
    }

    fn left(&mut self, count: usize) {
        (0..count).for_each(|_| self.output.push_str("\x1b[D"));
    }

    fn right(&mut self, count: usize) {
        (0..count).for_each(|_| self.output.push_str("\x1b[C"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(editor: &mut Editor, bytes: &[u8]) -> Vec<Typed> {
        bytes.iter().filter_map(|&b| editor.take(b)).collect()
    }

    fn line(text: &str) -> Typed {
        Typed::Line(text.into())
    }

    #[test]
    fn keys_edit_the_line() {
        for (keys, expected) in [
            (&b"info pci\r"[..], "info pci"),
            (b"stpo\x7f\x7fop\n", "stop"),
            (b"ont\x01c\r", "cont"),
            (b"quit\x1b[D\x1b[D\x1b[3~\r", "qut"),
            (b"one two\x17three\r", "one three"),
            (b"abc\x01\x0b\x05d\r", "d"),
            (b"abc\x15d\r", "d"),
            (b"abc\x03d\r", "d"),
            (b"ab\x1b[H-\x1b[F+\r", "-ab+"),
            (b"\xff\x00\xc3\xa4x\r", "x"),
            (b"\x1b[1;5Cx\r", "x"),
        ] {
            let mut editor = Editor::new("> ");
            assert_eq!(typed(&mut editor, keys), [line(expected)], "{keys:?}");
        }
    }

    #[test]
    fn history_and_completion() {
        let mut editor = Editor::new("> ");
        typed(&mut editor, b"first\rsecond\r");
        assert_eq!(typed(&mut editor, b"\x1b[A\x1b[A\r"), [line("first")]);
        assert_eq!(typed(&mut editor, b"\x10\x10\x0e\r").len(), 1);
        let tab = Typed::Tab("inf".into());
        assert_eq!(typed(&mut editor, b"info\x1b[D\t"), [tab]);
    }

    #[test]
    fn a_line_has_an_end() {
        let mut editor = Editor::new("> ");
        typed(&mut editor, &vec![b'x'; 100_000]);
        let Some(Typed::Line(line)) = editor.take(b'\r') else {
            panic!("no line");
        };
        assert_eq!(line.len(), LONGEST);
    }
}
