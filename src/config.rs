//! What a ringroom process is told: one field a key, checked once, plain values with units from there on.
