//! The conformance suite: guest programs every backend must run alike.
