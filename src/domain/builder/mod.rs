//! The domain builder.
