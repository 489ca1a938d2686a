//! The simulator of the relocation code.
