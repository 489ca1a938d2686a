//! The entry list.
