//! The software back end.
