//! Links between pages, by the linear page that they lead to. They hold as long
//! as that page is mapped to the guest-physical page their targets are in.

use super::{Area, Map};

/// Links to one linear page.
#[derive(Debug)]
struct Page {
    /// The guest-physical page of their targets.
    gpa: u64,
    links: Vec<u32>,
}

/// All links between pages.
#[derive(Debug, Default)]
pub(super) struct Crossing(Map<u64, Page>);

impl Crossing {
    /// A link into the page of `la`, which is mapped to the page at `gpa`.
    /// Returns the links that this makes void.
    pub(super) fn add(&mut self, la: u64, gpa: u64, link: u32) -> Vec<u32> {
        let page = self.0.entry(la >> 12).or_insert_with(|| Page {
            gpa,
            links: Vec::new(),
        });
        let mut void = Vec::new();
        if page.gpa != gpa {
            page.gpa = gpa;
            void = std::mem::take(&mut page.links);
        }
        page.links.push(link);
        void
    }

    /// Takes the links to pages of `area` of which `same` (linear,
    /// guest-physical address) says that they are mapped otherwise now.
    pub(super) fn take_changed(
        &mut self,
        area: Area,
        mut same: impl FnMut(u64, u64) -> bool,
    ) -> Vec<u32> {
        let mut void = Vec::new();
        for (la, page) in area.of(&mut self.0) {
            if !page.links.is_empty() && !same(la, page.gpa) {
                void.append(&mut page.links);
            }
        }
        void
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
