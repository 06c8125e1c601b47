//! Running the conformance suite, and breaking backends to see it fail.
//!
//! [`mock`] wraps any backend and breaks one thing in it. Its tests show that
//! every case of [`hv::conformance`] notices something: a suite that cannot
//! fail proves nothing.

pub mod mock;
pub mod report;
