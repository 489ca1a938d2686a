//! What the test guests share.
#![no_std]
