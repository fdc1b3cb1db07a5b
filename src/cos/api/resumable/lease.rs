//! The lease: which session may write.
