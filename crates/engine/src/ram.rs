//! The RAM behind a linear address, as the access that is made now sees it.

use crate::ctx::Ctx;
use softmmu::SlotMap;
use softmmu::tlb::Bank;
use softmmu::walk::Need;
use x86::paging::PAGE_MASK;
use x86::{Exception, canonical48};

/// A byte of RAM; those behind it in its page follow.
pub(crate) struct Ram {
    /// Its host address.
    pub(crate) host: u64,
    /// Writes may go straight there.
    pub(crate) plain: bool,
    /// Writes go there at all: its slot is not read-only.
    pub(crate) writable: bool,
}

impl Ram {
    /// The byte at linear address `la`, or the exception that the access raises; none
    /// if there is no RAM, or no canonical address.
    pub(crate) fn at(
        ctx: &mut Ctx,
        map: &SlotMap,
        la: u64,
        write: bool,
    ) -> Result<Option<Self>, Exception> {
        if !canonical48(la) {
            return Ok(None);
        }
        let bank = Bank::of(&ctx.cpu);
        if let Some(host) = ctx.tlb.hit(bank, la, 1, write) {
            return Ok(Some(Self {
                host,
                plain: true,
                writable: true,
            }));
        }
        let need = Need {
            write,
            exec: false,
            user: bank == Bank::User,
            implicit: false,
        };
        let page = ctx.tlb.resolve(&ctx.cpu, map, la, need)?;
        Ok(page.host.map(|host| Self {
            host: host + (la & PAGE_MASK),
            plain: page.plain_write,
            writable: page.plain_write || map.page(page.gpa).is_some_and(|p| !p.slot.readonly),
        }))
    }
}
