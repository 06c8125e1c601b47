//! Guest memory: the pages that are not all zero.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A page's bytes.
pub type Page = Arc<[u8; PAGE]>;

/// Pages by guest-physical address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pages: BTreeMap<u64, Page>,
}

impl Memory {
    /// Notes a page; one of zeros costs nothing.
    pub fn put(&mut self, gpa: u64, bytes: &[u8; PAGE]) {
        debug_assert_eq!(gpa % PAGE as u64, 0);
        if bytes.iter().any(|&b| b != 0) {
            self.pages.insert(gpa, Arc::new(*bytes));
        }
    }

    /// Zeroes bytes that lie in one page.
    pub fn clear(&mut self, gpa: u64, len: usize) {
        let at = (gpa % PAGE as u64) as usize;
        if let Some(page) = self.pages.get_mut(&(gpa - at as u64)) {
            let end = (at + len).min(PAGE);
            Arc::make_mut(page)[at..end].fill(0);
        }
    }

    /// The pages, by address.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &Page)> {
        self.pages.iter().map(|(&gpa, page)| (gpa, page))
    }

    /// Number of pages that are not zero.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// All memory is zero.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The first page that differs.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let gpas = self.pages.keys().chain(other.pages.keys());
        let differs = |gpa: &&u64| self.pages.get(gpa) != other.pages.get(gpa);
        gpas.filter(differs)
            .min()
            .map(|gpa| format!("memory at {gpa:#x}"))
    }
}
