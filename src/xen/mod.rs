//! Xen's guest interface: numbers and layouts.
