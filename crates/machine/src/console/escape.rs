//! The Ctrl-A escape of consoles on standard input, and of shared ones.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A byte for the guest.
    Byte(u8),
    /// End the machine.
    Quit,
    /// Show the help text.
    Help,
    /// Send the guest a break.
    Break,
    /// Turn to the next of those that share the terminal: the monitor.
    Next,
}

/// The help text.
pub const HELP: &str = "\r\n\
    Ctrl-A H  this help\r\n\
    Ctrl-A X  quit\r\n\
    Ctrl-A B  send a break (magic SysRq on Linux)\r\n\
    Ctrl-A C  go to the monitor, if it shares the terminal, and back\r\n\
    Ctrl-A Ctrl-A  send Ctrl-A\r\n";

/// Remembers whether the last byte was the escape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Escape {
    armed: bool,
}

impl Escape {
    /// Takes one byte; keys that mean nothing after Ctrl-A are dropped.
    pub fn take(&mut self, byte: u8) -> Option<Action> {
        if !std::mem::take(&mut self.armed) {
            self.armed = byte == ESCAPE;
            return (!self.armed).then_some(Action::Byte(byte));
        }
        match byte {
            b'x' | b'X' => Some(Action::Quit),
            b'h' | b'H' | b'?' => Some(Action::Help),
            b'b' | b'B' => Some(Action::Break),
            b'a' | b'A' | ESCAPE => Some(Action::Byte(ESCAPE)),
            b'c' | b'C' => Some(Action::Next),
            // S and T are reserved.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(text: &[u8]) -> Vec<Action> {
        let mut escape = Escape::default();
        text.iter().filter_map(|&b| escape.take(b)).collect()
    }

    #[test]
    fn keys() {
        use Action::*;
        assert_eq!(feed(b"ls\n"), [Byte(b'l'), Byte(b's'), Byte(b'\n')]);
        assert_eq!(feed(b"\x01xq"), [Quit, Byte(b'q')]);
        assert_eq!(feed(b"\x01a\x01\x01x"), [Byte(1), Byte(1), Byte(b'x')]);
        assert_eq!(feed(b"\x01ch\x01h\x01b"), [Next, Byte(b'h'), Help, Break]);
        assert_eq!(feed(b"\x01th"), [Byte(b'h')]);
    }
}
