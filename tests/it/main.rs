//! Cross-crate tests: whole processes, hostile clients, and the tidiness of the tree.

mod tidy;
