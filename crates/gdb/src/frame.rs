//! Packets among the bytes of a debugger. What is no packet does not get to the
//! protocol's crate, for which it would be the end of the connection.

/// Longest packet of a debugger: that with all registers fits. The protocol's crate
/// looks through so many bytes for every packet.
pub(crate) const PACKET: usize = 4 << 10;
/// What a debugger sends to interrupt (Ctrl-C).
pub(crate) const INTERRUPT: u8 = 3;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A packet with `$` and its checksum, which is right.
    Packet(Vec<u8>),
    /// Its checksum is wrong: it is to be sent again.
    Bad,
    /// The last answer is to be sent again.
    Again,
    /// The machine is to stop.
    Interrupt,
}

#[derive(Clone, Copy, Default)]
enum Place {
    /// Between packets.
    #[default]
    Out,
    In,
    /// Behind `#`.
    Sum,
    /// Behind the checksum's first digit.
    Digit,
}

/// Cuts bytes into frames. A packet that is too long is dropped, as under QEMU;
/// what began and did not end is dropped when the next one begins.
#[derive(Default)]
pub(crate) struct Framer {
    place: Place,
    packet: Vec<u8>,
}

impl Framer {
    /// Takes a byte.
    pub(crate) fn take(&mut self, byte: u8) -> Option<Frame> {
        match (self.place, byte) {
            (Place::Out, b'-') => return Some(Frame::Again),
            (Place::Out, INTERRUPT) => return Some(Frame::Interrupt),
            (_, b'$') => {
                self.packet.clear();
                self.packet.push(byte);
                self.place = Place::In;
            }
            (Place::Out, _) => {}
            // The three bytes at its end have to fit, too.
            (Place::In, _) if byte != b'#' && self.packet.len() >= PACKET - 3 => {
                self.place = Place::Out;
            }
            (place, _) => {
                self.packet.push(byte);
                self.place = match (place, byte) {
                    (Place::In, b'#') => Place::Sum,
                    (Place::Sum, _) => Place::Digit,
                    (Place::Digit, _) => {
                        self.place = Place::Out;
                        return Some(self.judge());
                    }
                    (place, _) => place,
                };
            }
        }
        None
    }

    fn judge(&mut self) -> Frame {
        let packet = std::mem::take(&mut self.packet);
        let (body, end) = packet.split_at(packet.len() - 3);
        let digits = std::str::from_utf8(&end[1..]).ok();
        let said = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match said == Some(sum(&body[1..])) {
            true => Frame::Packet(packet),
            false => Frame::Bad,
        }
    }
}

/// The checksum of a packet's body.
pub(crate) fn sum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut framer = Framer::default();
        bytes.iter().filter_map(|b| framer.take(*b)).collect()
    }

    fn packet(text: &str) -> Frame {
        Frame::Packet(text.into())
    }

    #[test]
    fn packets_and_what_is_between_them() {
        assert_eq!(frames(b"+$g#67+"), [packet("$g#67")]);
        assert_eq!(frames(b"\x03-\n"), [Frame::Interrupt, Frame::Again]);
        assert_eq!(frames(b"$#00"), [packet("$#00")]);
        // Inside of a packet they are bytes.
        assert_eq!(frames(b"$\x03-+#5b"), [packet("$\x03-+#5b")]);
    }

    #[test]
    fn wrong_checksums() {
        for bytes in [&b"$g#68"[..], b"$g#6", b"$g#zz", b"$g#+7", b"$g#\xff\xff"] {
            let all = frames(bytes);
            let expected: &[Frame] = if bytes.len() == 4 { &[] } else { &[Frame::Bad] };
            assert_eq!(all, expected, "{bytes:?}");
        }
        assert_eq!(frames(b"$g#6$g#67"), [packet("$g#67")]);
    }

    #[test]
    fn what_does_not_end_is_dropped() {
        assert_eq!(frames(b"$m0,$g#67"), [packet("$g#67")]);
        for (body, fits) in [(PACKET - 4, true), (PACKET - 3, false)] {
            let mut bytes = vec![b'a'; body + 1];
            bytes[0] = b'$';
            let end = format!("#{:02x}", sum(&bytes[1..]));
            bytes.extend(end.as_bytes());
            assert_eq!(frames(&bytes).len(), usize::from(fits), "{body}");
        }
        let mut endless = vec![b'$'; 1];
        endless.resize(1 << 20, b'x');
        endless.extend(b"$g#67");
        assert_eq!(frames(&endless), [packet("$g#67")]);
    }
}
