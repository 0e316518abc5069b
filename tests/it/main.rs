//! Cross-crate tests: whole processes, hostile clients, and the tidiness of the tree.

mod corpus;
mod daemon;
mod hostile;
mod tidy;
