//! The tail: what was received of the part after the last full one.
