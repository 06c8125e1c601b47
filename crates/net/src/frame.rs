//! Ethernet frames, and what whoever made one has left to others.

/// A frame without its frame check sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the destination's address on.
    pub bytes: Vec<u8>,
    /// What is left to do.
    pub offload: Offload,
}

/// What a frame's maker has left to do, or has done. All zero for a plain frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum is not computed yet.
    pub checksum: Option<Partial>,
    /// Checksums were found to be right, or the frame never left this machine.
    pub verified: bool,
    /// The frame stands for several.
    pub segments: Option<Segments>,
}

/// A checksum that is to be computed: the field holds the sum of the pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Where what it covers begins: bytes from the frame's start.
    pub start: u16,
    /// Where the field is: bytes from there.
    pub offset: u16,
}

/// A frame that is longer than the network's are, to be cut into several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// What is cut.
    pub kind: SegmentKind,
    /// The first segment has TCP's CWR, the others not.
    pub ecn: bool,
    /// Bytes of all headers, as far as the maker knows.
    pub header_len: u16,
    /// Bytes of payload in each but the last.
    pub size: u16,
}

/// What a long frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

/// What one side can do with the other's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// [`Offload::checksum`].
    pub checksum: bool,
    /// [`SegmentKind::TcpV4`].
    pub tcp4: bool,
    /// [`SegmentKind::TcpV6`].
    pub tcp6: bool,
    /// [`Segments::ecn`].
    pub ecn: bool,
}

impl Accepts {
    /// Everything.
    pub const ALL: Self = Self {
        checksum: true,
        tcp4: true,
        tcp6: true,
        ecn: true,
    };

    /// This side can do what is left to do.
    pub fn covers(&self, offload: &Offload) -> bool {
        let segments = offload.segments.is_none_or(|s| {
            let kind = match s.kind {
                SegmentKind::TcpV4 => self.tcp4,
                SegmentKind::TcpV6 => self.tcp6,
            };
            kind && (self.ecn || !s.ecn)
        });
        segments && (self.checksum || offload.checksum.is_none())
    }
}

impl Partial {
    /// The checksum's field lies in a frame of `len` bytes.
    pub fn fits(&self, len: usize) -> bool {
        usize::from(self.start) + usize::from(self.offset) + 2 <= len
    }
}
