//! The MFN list.
