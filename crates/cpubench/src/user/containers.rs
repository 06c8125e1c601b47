//! Data structures in memory.

use crate::row::{Numbers, Outcome, mix, timed};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::io;

/// Follows one ring through all of `places` numbers, in no order (Sattolo's
/// algorithm).
fn chase(places: usize, count: u64) -> io::Result<Outcome> {
    let mut numbers = Numbers::new(5);
    let mut next: Vec<u64> = (0..places as u64).collect();
    for i in (1..places).rev() {
        next.swap(i, numbers.below(i));
    }
    timed(|| {
        let mut at = 0u64;
        for _ in 0..count {
            at = next[at as usize];
        }
        mix(at, next[places / 2])
    })
}

/// In 16 KiB.
pub(super) fn chase_l1(count: u64) -> io::Result<Outcome> {
    chase((16 << 10) / 8, count)
}

/// In 1 MiB.
pub(super) fn chase_1m(count: u64) -> io::Result<Outcome> {
    chase((1 << 20) / 8, count)
}

struct Node {
    key: u64,
    times: u32,
    children: [Option<Box<Node>>; 2],
}

#[derive(Default)]
struct Tree {
    root: Option<Box<Node>>,
}

impl Tree {
    /// Depth at which the key is.
    fn insert(&mut self, key: u64) -> u64 {
        let (mut place, mut depth) = (&mut self.root, 0);
        while let Some(node) = place {
            if node.key == key {
                node.times += 1;
                return depth + u64::from(node.times);
            }
            place = &mut node.children[usize::from(key > node.key)];
            depth += 1;
        }
        *place = Some(Box::new(Node {
            key,
            times: 1,
            children: [None, None],
        }));
        depth
    }
}

/// Inserts into binary trees that grow to some 20,000 nodes.
pub(super) fn tree(count: u64) -> io::Result<Outcome> {
    timed(|| {
        let mut numbers = Numbers::new(6);
        let (mut sum, mut tree) = (0u64, Tree::default());
        for i in 0..count {
            if i % 20_000 == 0 {
                tree = Tree::default();
            }
            sum = mix(sum, tree.insert(numbers.next() >> 40));
        }
        sum
    })
}

/// The standard library's hash map with its usual hash function, unseeded.
pub(super) fn hash_map(count: u64) -> io::Result<Outcome> {
    timed(|| {
        let mut map: HashMap<u64, u64, BuildHasherDefault<DefaultHasher>> = HashMap::default();
        let mut numbers = Numbers::new(7);
        let mut sum = 0;
        for i in 0..count {
            let key = numbers.next() & 0x7fff;
            let value = map.entry(key).or_insert(i);
            *value = value.wrapping_add(key);
            sum = mix(sum, *value);
            if key & 7 == 0 {
                map.remove(&(key + 1));
            }
        }
        mix(sum, map.len() as u64)
    })
}
