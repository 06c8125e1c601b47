//! Workloads that stay in user code.

mod calls;
mod containers;
mod copies;
mod crypto;
mod float;
mod integer;
mod vector;

use crate::row::{Feature, Kind, Outcome, Row};
use std::io;

type Run = fn(u64) -> io::Result<Outcome>;

const AVX2: Feature = ("avx2", || is_x86_feature_detected!("avx2"));
const AVX512: Feature = ("avx512f", || is_x86_feature_detected!("avx512f"));
const AES: Feature = ("aes", || is_x86_feature_detected!("aes"));
const SHA: Feature = ("sha_ni", || is_x86_feature_detected!("sha"));

const fn row(name: &'static str, needs: &'static [Feature], run: Run) -> Row {
    Row {
        name,
        kind: Kind::User,
        needs,
        run,
    }
}

const ROWS: [Row; 24] = [
    row("integer", &[], integer::dense),
    row("sieve", &[], integer::sieve),
    row("interpreter", &[], integer::interpreter),
    row("atomics", &[], integer::atomics),
    row("qsort", &[], calls::qsort),
    row("recursion", &[], calls::recursion),
    row("indirect-calls", &[], calls::indirect),
    row("string-compare", &[], calls::compare_strings),
    row("chase-16k", &[], containers::chase_l1),
    row("chase-1m", &[], containers::chase_1m),
    row("tree", &[], containers::tree),
    row("hash-map", &[], containers::hash_map),
    row("f64", &[], float::doubles),
    row("x87", &[], float::x87),
    row("avx2", &[AVX2], vector::avx2),
    row("avx2-unaligned", &[AVX2], vector::avx2_unaligned),
    row("avx512", &[AVX512], vector::avx512),
    row("copy-small", &[], copies::small),
    row("copy-vector-4k", &[], copies::vector_small),
    row("copy-vector-1m", &[], copies::vector_large),
    row("copy-rep-4k", &[], copies::rep_small),
    row("copy-rep-1m", &[], copies::rep_large),
    row("aes", &[AES], crypto::aes),
    row("sha256", &[SHA], crypto::sha256),
];

/// The table.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter()
}
