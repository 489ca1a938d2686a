//! Page types.
