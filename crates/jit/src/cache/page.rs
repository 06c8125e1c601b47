//! What is known of the translations made from one guest-physical page.

use super::{JumpCache, Key};

/// What tells translations from each other that were made from the same page
/// and no other: a [`Key`] less its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Linear address, or [`Key::ANYWHERE`].
    pub(super) rip: u64,
    /// As in the key.
    pub(super) mode: u32,
    /// Of its first instruction in the page.
    pub(super) offset: u16,
}

impl Head {
    /// Of a key; none if it has a second page.
    pub(super) fn of(key: &Key) -> Option<Self> {
        (key.next == Key::ONE_PAGE).then_some(Self {
            rip: key.rip,
            mode: key.mode,
            offset: (key.gpa & 0xfff) as u16,
        })
    }
}

/// A block that jumps through the jump cache lead to.
struct Target {
    head: Head,
    /// Its code address.
    code: u64,
    block: u32,
}

/// A link to a block that is not there yet.
struct Open {
    to: Head,
    link: u32,
}

/// Translations made from one guest-physical page.
#[derive(Default)]
pub(super) struct PageCode {
    /// Granules that any of them was made from.
    pub(super) granules: u64,
    /// All of them.
    pub(super) blocks: Vec<u32>,
    /// Side by side with what an offer needs: a process that comes to the page
    /// reads them all.
    targets: Vec<Target>,
    open: Vec<Open>,
}

impl PageCode {
    /// Jumps through the jump cache lead to the block.
    pub(super) fn add_target(&mut self, head: Head, code: u64, block: u32) {
        self.targets.push(Target { head, code, block });
    }

    /// Offers `jumps`, a cache for the page and mode of `key`, where jumps
    /// through others led since it was offered them last.
    pub(super) fn offer(&self, key: &Key, jumps: &mut JumpCache) {
        let (rip, mode) = (key.rip, key.mode);
        let known = jumps.offered(rip, key.page(), self.targets.len());
        for target in self.targets.get(known..).unwrap_or_default() {
            let head = &target.head;
            let at = match head.rip {
                Key::ANYWHERE => rip & !0xfff | u64::from(head.offset),
                fixed => fixed,
            };
            if head.mode == mode && (at ^ rip) < 0x1000 {
                jumps.offer(at, target.code);
            }
        }
    }

    /// Forgets the targets that are not `alive` any more.
    pub(super) fn retain_targets(&mut self, alive: impl Fn(u32) -> bool) {
        self.targets.retain(|t| alive(t.block));
    }

    /// The link leads to a block that is not there yet.
    pub(super) fn wait_for(&mut self, to: Head, link: u32) {
        self.open.push(Open { to, link });
    }

    /// Takes a link that waits for the block.
    pub(super) fn take_waiting(&mut self, block: Head) -> Option<u32> {
        let i = self.open.iter().position(|o| o.to == block)?;
        Some(self.open.swap_remove(i).link)
    }
}
