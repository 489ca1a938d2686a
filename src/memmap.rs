//! The firmware memory map.
