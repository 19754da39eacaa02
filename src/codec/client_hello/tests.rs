//! Hellos of real clients, and wrong ones.
