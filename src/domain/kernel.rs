//! Guest kernels.
