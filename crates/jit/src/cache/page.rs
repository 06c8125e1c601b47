//! What is known of the translations made from one guest-physical page.

use super::{JumpCache, Key};

/// A block that jumps through the jump cache lead to and that was made from no
/// other page.
struct Target {
    /// Linear address, or [`Key::ANYWHERE`].
    rip: u64,
    mode: u32,
    block: u32,
    /// Arena offset of its code.
    at: u32,
    /// Of its first instruction in the page.
    offset: u16,
}

/// A link to a block that is not there yet.
struct Open {
    /// Of the block in the page.
    offset: u16,
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
    /// Jumps through the jump cache lead to the block, whose code is at arena
    /// offset `at`.
    pub(super) fn add_target(&mut self, key: &Key, at: u32, block: u32) {
        if key.next == Key::ONE_PAGE {
            self.targets.push(Target {
                rip: key.rip,
                mode: key.mode,
                block,
                at,
                offset: key.offset(),
            });
        }
    }

    /// Offers `jumps`, a cache for the page and mode of `key`, where jumps
    /// through others led since it was offered them last. The arena is at
    /// `arena`.
    pub(super) fn offer(&self, key: &Key, arena: u64, jumps: &mut JumpCache) {
        let known = jumps.offered(key.rip, key.page(), self.targets.len());
        for target in self.targets.get(known..).unwrap_or_default() {
            let at = match target.rip {
                Key::ANYWHERE => key.rip & !0xfff | u64::from(target.offset),
                fixed => fixed,
            };
            if target.mode == key.mode && (at ^ key.rip) < 0x1000 {
                jumps.offer(at, arena + u64::from(target.at));
            }
        }
    }

    /// Forgets the targets that are not `alive` any more.
    pub(super) fn retain_targets(&mut self, alive: impl Fn(u32) -> bool) {
        self.targets.retain(|t| alive(t.block));
    }

    /// The link leads to a block that is not there yet.
    pub(super) fn wait_for(&mut self, block: &Key, link: u32) {
        let offset = block.offset();
        self.open.push(Open { offset, link });
    }

    /// Takes a link that waits for a block where this one is, if `its` says that
    /// it is this one.
    pub(super) fn take_waiting(&mut self, block: &Key, its: impl Fn(u32) -> bool) -> Option<u32> {
        let offset = block.offset();
        let waits = |o: &Open| o.offset == offset && its(o.link);
        let i = self.open.iter().position(waits)?;
        Some(self.open.swap_remove(i).link)
    }
}
